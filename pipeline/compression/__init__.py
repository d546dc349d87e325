"""A file as the arithmetic code of a model: the proof that bits per byte are bits. For small files."""
