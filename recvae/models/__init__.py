"""The networks and their training objectives. They need torch, numpy and scipy only."""
