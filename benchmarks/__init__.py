"""Times fermm against the paper's own way (Keras on TensorFlow) and PyTorch, on one machine.

`uv run --group benchmarks python -m benchmarks --help` says what there is to time;
docs/performance.md holds what it showed.
"""
