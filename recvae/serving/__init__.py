"""The service: a trained model that answers over HTTP, and the program parts around it. See docs/serving.md."""
