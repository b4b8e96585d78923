"""Recipe search: a study on disk, its workers, the stages of a trial, the winners."""
