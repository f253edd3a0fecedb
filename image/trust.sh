# Sourced by the image's build steps: stop at the first error, trust the company's CA, and use
# its package index, each where it was given.
set -eu
if [ -s /run/secrets/ca.pem ]; then
    export SSL_CERT_FILE=/run/secrets/ca.pem PIP_CERT=/run/secrets/ca.pem
fi
# A secret too: such an address may hold a password, and build arguments stay in the history.
if [ -s /run/secrets/pip_index_url ]; then
    PIP_INDEX_URL=$(cat /run/secrets/pip_index_url)
    export PIP_INDEX_URL UV_DEFAULT_INDEX="${PIP_INDEX_URL}"
fi
