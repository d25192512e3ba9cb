"""How well the models rank: the study of all models, the family part by part, genres, ratings."""
