# Stands in for the hub's prom/prometheus: Debian's package, run by the same user, with the same folder.
FROM localhost/slimq-test/debian
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus \
    && mkdir -p /prometheus && chown 65534:65534 /prometheus \
    && printf '#!/bin/sh\nexec promtool query instant http://127.0.0.1:9090 vector\\(1\\)\n' > /usr/local/bin/healthy \
    && chmod +x /usr/local/bin/healthy
USER 65534:65534
ENTRYPOINT ["/usr/bin/prometheus"]
