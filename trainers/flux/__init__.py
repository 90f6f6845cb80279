"""All that knows the shapes of a FLUX: its weights, its forward pass, quantisation, streaming, sharding."""
