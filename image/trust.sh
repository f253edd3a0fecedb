# Sourced by the image's build steps: stop at the first error, trust the company's CA, and use
# its package index, each where it was given.
set -eu
if [ -s /run/secrets/ca.pem ]; then
    export SSL_CERT_FILE=/run/secrets/ca.pem PIP_CERT=/run/secrets/ca.pem
fi
if [ -n "${PIP_INDEX_URL:-}" ]; then
    export PIP_INDEX_URL UV_DEFAULT_INDEX="${PIP_INDEX_URL}"
else
    unset PIP_INDEX_URL
fi
