"""How fast recvae is on a CPU, beside named peers whose results are checked to be equal first."""
