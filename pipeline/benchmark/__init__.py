"""What is fast, what is small, what learns: each module measures one thing and returns plain values for JSON."""
