"""What is measured on a GPU machine that has no network: packed here, installed and run there (docs/gpu.md)."""
