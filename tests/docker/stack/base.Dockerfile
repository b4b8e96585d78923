# Stands in for the hub's python:3.11-slim, which has python, and a pip that installs anywhere.
FROM localhost/slimq-test/debian
RUN ln -s /usr/bin/python3 /usr/local/bin/python && rm /usr/lib/python3*/EXTERNALLY-MANAGED
