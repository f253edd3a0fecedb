#!/bin/sh
# The steps of Dockerfile.smoke, run inside `docker build`:
#   packages LOCK    Python, where the base has none, and the locked packages
#   probes FOLDER    the probes; then the tree without what nothing needs at run time
set -eu
home=/opt/smoke

install_python() {
    if [ -n "${APT_MIRROR:-}" ]; then
        sed -i "s#^\(deb\|URIs:\) *http[^ ]*/debian/\?\( \|$\)#\1 ${APT_MIRROR}\2#" \
            /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true
    fi
    if [ -s /run/secrets/ca.pem ]; then
        echo 'Acquire::https::CAInfo "/run/secrets/ca.pem";' > /tmp/apt-ca
        export APT_CONFIG=/tmp/apt-ca
    fi
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        python3 python3-venv ca-certificates
    rm -f /tmp/apt-ca
}

packages() {
    # Debian's Python can't make environments without a package of its own.
    python3 -c 'import ensurepip' 2>/dev/null || install_python
    # From an environment of its own: on Debian pip may not touch the system's packages.
    python3 -m venv /tmp/pip
    /tmp/pip/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
        --root-user-action=ignore --require-hashes --no-deps --target "$home" -r "$1"
    rm -rf /tmp/pip
    # What was installed for this step alone; the official Python image has its pip elsewhere.
    if dpkg -s python3-venv >/dev/null 2>&1; then
        apt-get -qq purge -y --auto-remove python3-venv \
            -o APT::AutoRemove::SuggestsImportant=false
    fi
    rm -rf "$home/bin" /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
        /usr/local/bin/pip*
}

lean() {
    rm -rf /var/cache/* /var/lib/apt/lists/* /var/log/* /run/* /root/.cache \
        /usr/share/locale/* /usr/share/man/* /usr/share/info/* /usr/share/lintian
    # Licences stay, as does dpkg's list: scanners find in it what is here.
    find /usr/share/doc -not -name copyright \( -type f -o -type l \) -delete
    find / -xdev -type f -perm /6000 -exec chmod a-s {} +
}

probes() {
    cp -R "$1" "$home/healthchecks"
    # The root is read-only when it runs: without bytecode, every start would compile anew.
    python3 -m compileall -q "$home"
    # For whichever user it runs as, where nothing is mounted.
    mkdir -m 1777 /reports
    lean
}

"$@"
