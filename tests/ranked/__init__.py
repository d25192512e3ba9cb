"""Work of several processes that talk through torch.distributed, started by the tests."""
