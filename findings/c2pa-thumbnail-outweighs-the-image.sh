#!/usr/bin/env bash
# Subject: c2pa-python 0.38.1, Builder.sign on a PNG; Pillow 13.0.0, cryptography 50.0.2.
#
# Guess:   content credentials add a few KB (claim, certificates, signature) to a generated image. A thumbnail, if
#          there is one, is no larger than the image.
# Actual:  by default the signed file holds a JPEG thumbnail, of 1024x1024 pixels for a square image, and a smaller
#          image is enlarged for it. A 64x64 PNG of 12 KB grows by 277 KB. A thumbnail setting of a Context avoids it; the
#          older load_settings() call is accepted, with a deprecation warning only, and has no effect.
# Seen:    64x64: +277 KB, thumbnail 1024x1024; with load_settings: the same; with Context and Settings: +3 KB
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    c2pa-python==0.38.1 cryptography==50.0.2 pillow==13.0.0 numpy==2.4.6

cat >"$work/check.py" <<'EOF'
import datetime
import io
import json
import sys

import c2pa
import numpy
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

NOW = datetime.datetime.now(datetime.timezone.utc)


def certificate(name, issuer=None):
    """Return a certificate and its key; without an issuer it is the root that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, name)])
    parent, parent_key = issuer or (None, key)
    builder = x509.CertificateBuilder(parent.subject if parent else subject, subject, key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(NOW - datetime.timedelta(days=1))
    builder = builder.not_valid_after(NOW + datetime.timedelta(days=9))
    usage = x509.KeyUsage(True, False, False, False, False, parent is None, parent is None, False, False)
    for extension, critical in (
        (x509.BasicConstraints(parent is None, None), True),
        (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(parent_key.public_key()), False),
        *([(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)] if parent else []),
    ):
        builder = builder.add_extension(extension, critical)
    return builder.sign(parent_key, hashes.SHA256()), key


pem = serialization.Encoding.PEM
root = certificate("root")
leaf, key = certificate("leaf", root)
chain = leaf.public_bytes(pem) + root[0].public_bytes(pem)
secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
action = {
    "action": "c2pa.created",
    "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
}
manifest = json.dumps({"assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}]})
OFF = {"builder": {"thumbnail": {"enabled": False}}}

file = io.BytesIO()
Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)).save(file, "PNG")
image = file.getvalue()


def sign(context=None):
    info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=secret, ta_url=None)
    signed = io.BytesIO()
    c2pa.Builder(manifest, context).sign(c2pa.Signer.from_info(info), "image/png", io.BytesIO(image), signed)
    reader = c2pa.Reader("image/png", io.BytesIO(signed.getvalue()))
    store = json.loads(reader.json())
    thumbnail = store["manifests"][store["active_manifest"]].get("thumbnail")
    size = None
    if thumbnail:
        data = io.BytesIO()
        reader.resource_to_stream(thumbnail["identifier"], data)
        size = Image.open(data).size
    return len(signed.getvalue()) - len(image), size


seen = {"default": sign()}
c2pa.load_settings(json.dumps(OFF))
seen["load_settings, thumbnail off"] = sign()
seen["Context, thumbnail off"] = sign(c2pa.Context(c2pa.Settings.from_dict(OFF)))
for name, (growth, size) in seen.items():
    print(f"64x64 PNG of {len(image)} bytes, {name}: {growth} bytes more, thumbnail {size}")

first, second, third = seen.values()
expected = first[1] == second[1] == (1024, 1024) and first[0] > 200_000 and third[1] is None and third[0] < 20_000
sys.exit(0 if expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" -W ignore "$work/check.py"
