"""The one command, `slimq`. Each subcommand imports what it needs when it runs."""
