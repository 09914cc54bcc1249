#!/usr/bin/env bash
# Makes the certificates of the TLS tests, which are valid until 2126. The key of the authority is not kept.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

authority() { # file, name
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj "/CN=$2" \
        -keyout "$work/$1.key" -out "$1.pem"
}

server() { # file, alternative names, start, end
    printf 'basicConstraints=CA:FALSE\nsubjectAltName=%s\n' "$2" >"$work/extensions"
    openssl req -new -key server.key -subj "/CN=server" -out "$work/request"
    : >"$work/index"
    openssl ca -batch -notext -config "$work/config" -in "$work/request" -out "$1.pem" \
        -cert authority.pem -keyfile "$work/authority.key" -extfile "$work/extensions" \
        -startdate "$3" -enddate "$4"
}

cat >"$work/config" <<CONFIG
[ca]
default_ca = tests
[tests]
database = $work/index
new_certs_dir = $work
default_md = sha256
policy = any
unique_subject = no
rand_serial = yes
[any]
commonName = supplied
CONFIG

authority authority "authority of the tests"
authority stranger "another authority"
openssl ecparam -genkey -name prime256v1 -noout | openssl pkcs8 -topk8 -nocrypt -out server.key
chmod 644 server.key
here="DNS:localhost,DNS:chat.example,IP:127.0.0.1,IP:::1"
server server "$here" 20200101000000Z 21260101000000Z
server expired "$here" 20200101000000Z 20210101000000Z
server elsewhere "DNS:elsewhere.example" 20200101000000Z 21260101000000Z
# As openssl makes one by default: the certificate of an authority.
openssl req -x509 -key server.key -days 36500 -subj "/CN=server" -addext "subjectAltName=$here" -out self-signed.pem
