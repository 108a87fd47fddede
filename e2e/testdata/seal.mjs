// Seals a provider's secret as package seal documents it: WebCrypto and nothing else,
// so that it runs in a browser and in Node alike.

const utf8 = new TextEncoder();

// suite 1: AES-256-GCM, its key wrapped by RSA-OAEP-SHA256 of 3072 bits.
const SUITE = 1;
const OAEP = { name: "RSA-OAEP", hash: "SHA-256" };

export function join(...parts) {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

// integer is big-endian; version numbers are at most 2^53-1, which Number holds.
function integer(n, size) {
  const out = new Uint8Array(size);
  for (let i = size - 1; i >= 0; i--) {
    out[i] = n % 256;
    n = Math.floor(n / 256);
  }
  return out;
}

function string(s) {
  const raw = utf8.encode(s);
  return join(integer(raw.length, 2), raw);
}

export function base64(bytes) {
  let s = "";
  for (const b of bytes) s += String.fromCharCode(b);
  return btoa(s);
}

export function unbase64(s) {
  return Uint8Array.from(atob(s), (c) => c.charCodeAt(0));
}

export function hex(bytes) {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

// canonical is the one encoding of a record's header (seal.Header.Canonical).
export function canonical(h) {
  const b = h.binding;
  return join(
    string("keybridge record"),
    integer(h.format, 2),
    string(h.workspace),
    string(h.type),
    string(h.record),
    integer(h.version, 8),
    string(b.use),
    string(b.key ?? ""),
    string(b.scheme ?? ""),
    string(b.host ?? ""),
    integer(b.port ?? 0, 2),
    string(b.ca ?? ""),
    string(b.scope ?? ""),
    string(b.repository ?? ""),
  );
}

export function label(header, suite, keyId) {
  return join(header, integer(suite, 2), string(keyId));
}

// der of the one PEM block of a public key.
function der(pem) {
  const m = /^-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/=\n]+)-----END PUBLIC KEY-----\n$/.exec(pem);
  if (!m) throw new Error("not one PEM block PUBLIC KEY");
  return unbase64(m[1].replaceAll("\n", ""));
}

export async function keyId(pem) {
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", der(pem))));
}

// seal makes the record that the admin API takes as sealedSecret.
export async function seal(pem, header, secret) {
  const key = await crypto.subtle.importKey("spki", der(pem), OAEP, false, ["encrypt"]);
  if (key.algorithm.modulusLength !== 3072) throw new Error("the sealing key is not RSA-3072");
  const id = await keyId(pem);
  const additionalData = canonical(header);
  const dek = crypto.getRandomValues(new Uint8Array(32));
  const iv = crypto.getRandomValues(new Uint8Array(12));
  const aes = await crypto.subtle.importKey("raw", dek, "AES-GCM", false, ["encrypt"]);
  const body = new Uint8Array(await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData }, aes, secret));
  const wrap = await crypto.subtle.encrypt({ ...OAEP, label: label(additionalData, SUITE, id) }, key, dek);
  dek.fill(0);
  return {
    header,
    key: { suite: SUITE, keyId: id, value: base64(new Uint8Array(wrap)) },
    iv: base64(iv),
    authTag: base64(body.slice(-16)),
    message: base64(body.slice(0, -16)),
  };
}

// unseal is for test vectors: only a bridge has a private key.
export async function unseal(pkcs8, sealed) {
  const key = await crypto.subtle.importKey("pkcs8", pkcs8, OAEP, false, ["decrypt"]);
  const additionalData = canonical(sealed.header);
  const k = sealed.key;
  const dek = await crypto.subtle.decrypt(
    { ...OAEP, label: label(additionalData, k.suite, k.keyId) }, key, unbase64(k.value));
  const aes = await crypto.subtle.importKey("raw", dek, "AES-GCM", false, ["decrypt"]);
  const body = join(unbase64(sealed.message), unbase64(sealed.authTag));
  return new Uint8Array(
    await crypto.subtle.decrypt({ name: "AES-GCM", iv: unbase64(sealed.iv), additionalData }, aes, body));
}

// verify returns the manifest in a signed document, and fails unless the operator
// root (32 bytes) signed it.
export async function verify(root, signed) {
  const payload = unbase64(signed.payload);
  const key = await crypto.subtle.importKey("raw", root, { name: "Ed25519" }, false, ["verify"]);
  const said = join(utf8.encode("keybridge manifest v1\n"), payload);
  if (!(await crypto.subtle.verify({ name: "Ed25519" }, key, unbase64(signed.signature), said))) {
    throw new Error("the operator root did not sign this manifest");
  }
  const manifest = JSON.parse(new TextDecoder().decode(payload));
  if (manifest.format !== 1) throw new Error("unknown manifest format");
  for (const k of manifest.sealingKeys) {
    if ((await keyId(k.pem)) !== k.id) throw new Error("a sealing key's id is not its digest");
  }
  return manifest;
}

export function current(manifest) {
  const keys = manifest.sealingKeys.filter((k) => k.current);
  if (keys.length !== 1) throw new Error("not one current sealing key");
  return keys[0];
}
