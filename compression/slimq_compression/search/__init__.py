"""Recipe search: the study on disk, its workers, the stages of a trial, the winners."""
