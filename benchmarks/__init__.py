"""ravine against its peers: same problem, network, points, start, precision and cores.

`python -m benchmarks --help`. Every run is a process of its own (`worker`), in the environment of its family (`envs`);
a peer is one file in `peers` with one function, `run(start, trace)`.
"""
