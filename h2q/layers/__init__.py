"""Weight families: how a layer comes by its weight matrix. One file each, and one line here.

A family is built by `module:name` as `(config, inputs, outputs)`, both widths in channels. It has `bias` (outputs,),
`initialise(gain)` (gain 0 for what writes to the residual stream, else 1: a weight that starts at zero must still get a
gradient), and `weight` (outputs, inputs), a parameter or a property. `hamilton` alone has no weight of its own: the
model's bank generates those of all layers.

No torch here: `model.kind` is checked against these names before it is loaded.
"""

FAMILIES = {
    "hamilton": "h2q.layers.hamilton:new_layer",
    "dense": "h2q.layers.dense:DenseLinear",
}
"""Name, as `model.kind` gives it → what builds a layer of the family."""
