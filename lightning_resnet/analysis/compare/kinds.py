"""The metrics of callbacks and nets that `compare --panels` draws, without pandas."""

KINDS = {  # metric -> what it is, the callback that logs it, whether it spans orders of magnitude
    "grad_norm": ("norm of dE/dw", "GradientNorms", True),
    "response_std": ("std of the response", "ResponseStds", False),
    "identity_distance": ("norm of block(x) - x over norm of x", "AddedBlocks", False),
    "branch_scale": ("learned factor of F(x)", "nets with a branch_scale", False),
}
