"""What the GPU kernels can reach at best: computed from their sources and their compiled resources, never measured."""
