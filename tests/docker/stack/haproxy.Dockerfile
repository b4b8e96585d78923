# Stands in for the hub's haproxy: Debian's package, run by the same user.
FROM localhost/slimq-test/debian
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends haproxy \
    && printf '#!/usr/bin/python3\nimport urllib.request\nurllib.request.urlopen("http://127.0.0.1:8404/healthz", timeout=2)\n' > /usr/local/bin/healthy \
    && chmod +x /usr/local/bin/healthy
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER haproxy
