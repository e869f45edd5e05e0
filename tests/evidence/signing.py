"""Files with Content Credentials, signed by certificates that are made here."""

import datetime
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from c2pa import Builder, C2paSignerInfo, C2paSigningAlg, Signer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@dataclass(frozen=True)
class Issuer:
    """A signer and who vouches for it."""

    chain: bytes
    key: bytes
    #: What goes on a trust list, PEM.
    root: bytes


@lru_cache
def an_issuer(organisation: str = "Example Cameras") -> Issuer:
    now = datetime.datetime.now(datetime.UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, name = _name(organisation, "Root"), _name(organisation, "Ada Lovelace")

    def certificate(subject: x509.Name, holder: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root_name)
            .public_key(holder)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(holder), critical=False)
        )

    root = (
        certificate(root_name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    own = (
        certificate(name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )
    return Issuer(
        chain=own.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        root=root.public_bytes(Encoding.PEM),
    )


def _name(organisation: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _usage(**uses: bool) -> x509.KeyUsage:
    names = (
        *(
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
        ),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: uses.get(name, False) for name in names})


def signed(
    data: bytes,
    *,
    source_type: str | None = None,
    program: str = "Example 1.0",
    parent: bytes | None = None,
    issuer: Issuer | None = None,
    mime: str = "image/jpeg",
    remote: str | None = None,
    embedded: bool = True,
    extra: Any = None,
) -> bytes:
    """The file with a manifest: created as `source_type`, or an edit of `parent`."""
    issuer = issuer or an_issuer()
    name, _, version = program.partition(" ")
    actions: list[dict[str, Any]] = []
    if source_type is not None:
        actions.append({"action": "c2pa.created", "digitalSourceType": SOURCE_TYPES + source_type})
    if parent is not None:
        actions.append({"action": "c2pa.opened", "parameters": {"ingredientIds": ["xmp:iid:parent"]}})
        actions.append({"action": "c2pa.cropped"})
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": actions}}]
    if extra is not None:
        assertions.append({"label": "org.example.extra", "data": extra})
    builder = Builder(
        json.dumps({"claim_generator_info": [{"name": name, "version": version}], "assertions": assertions})
    )
    if parent is not None:
        ingredient = {"title": "parent", "relationship": "parentOf", "instance_id": "xmp:iid:parent"}
        builder.add_ingredient(json.dumps(ingredient), mime, io.BytesIO(parent))
    if remote is not None:
        builder.set_remote_url(remote)
    if not embedded:
        builder.set_no_embed()
    signer = Signer.from_info(C2paSignerInfo(C2paSigningAlg.ES256, issuer.chain, issuer.key, None))
    out = io.BytesIO()
    builder.sign(signer, mime, io.BytesIO(data), out)
    return out.getvalue()
