"""The kernels for TPU: how operands lie, and the three bodies."""
