"""The modules: what generates the weights, what hands them out, what applies them."""
