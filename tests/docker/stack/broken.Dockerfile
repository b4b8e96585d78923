# A release whose service ends as soon as it has started.
ARG IMAGE
FROM ${IMAGE}
ENV SLIMQ_WORKERS=none
