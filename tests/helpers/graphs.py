"""Capture of CUDA graphs, for the tests on a GPU."""

import torch


def capture(step):
    """Capture ``step`` after some calls, which compile kernels and ask for memory; returns graph and results."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results
