# The release after the one that runs. (podman's cache does not see that only a label has changed.)
ARG IMAGE
FROM ${IMAGE}
LABEL org.opencontainers.image.revision="two"
