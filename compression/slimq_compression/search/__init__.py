"""The search for recipes: a study on disk, its workers, the stages of a trial, the winners."""
