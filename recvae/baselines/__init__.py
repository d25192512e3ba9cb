"""Baselines behind the same contract as the models, and evaluated by the same evaluator."""
