// Usage: node seal_node.mjs vectors RECORDS.json CUSTODY.json
//        node seal_node.mjs bucket ADMIN ROOT < request.json
//
// As seal_record.py, with seal.mjs. The admin token is in ADMIN_TOKEN.

import { readFileSync } from "node:fs";
import { createPrivateKey, createPublicKey, randomUUID, webcrypto } from "node:crypto";

globalThis.crypto ??= webcrypto; // Node 18
const { base64, canonical, current, hex, keyId, label, seal, unbase64, unseal, verify } = await import("./seal.mjs");

function equal(what, got, want) {
  if (got !== want) throw new Error(`${what}: ${got}, want ${want}`);
}

const unhex = (s) => Uint8Array.from(Buffer.from(s, "hex"));
const read = (file) => JSON.parse(readFileSync(file, "utf8"));

// rootOf is the raw public key of an Ed25519 seed or PEM text.
function rootOf(key) {
  return Uint8Array.from(Buffer.from(key.export({ format: "jwk" }).x, "base64url"));
}

async function vectors(recordsFile, custodyFile) {
  const records = read(recordsFile);
  const pkcs8 = unhex(records.privateKey);
  equal("key id", await keyId(records.publicKey), records.keyId);
  for (const r of records.records) {
    const header = canonical(r.json.header);
    equal(`${r.name}: canonical header`, hex(header), r.canonicalHeader);
    const start = hex(label(header, r.json.key.suite, r.json.key.keyId));
    equal(`${r.name}: label`, r.binary.slice(0, start.length), start);
    equal(`${r.name}: plaintext`, hex(await unseal(pkcs8, r.json)), r.plaintext);
    const again = await seal(records.publicKey, r.json.header, unhex(r.plaintext));
    equal(`${r.name}: sealed here`, hex(await unseal(pkcs8, again)), r.plaintext);
  }
  const custody = read(custodyFile);
  // RFC 8410 §7: the PKCS #8 form of an Ed25519 seed.
  const seed = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), Buffer.from(custody.root, "hex")]);
  const root = rootOf(createPublicKey(createPrivateKey({ key: seed, format: "der", type: "pkcs8" })));
  for (const name of ["Manifest", "Minimal"]) {
    const signed = JSON.parse(custody[name]);
    equal(`${name}: set`, (await verify(root, signed)).set, custody.set);
    const payload = unbase64(signed.payload);
    payload[payload.length - 2] ^= 1;
    const accepted = await verify(root, { ...signed, payload: base64(payload) }).then(() => true, () => false);
    equal(`${name}: an altered manifest verifies`, accepted, false);
  }
  console.log("vectors hold:", records.records.length, "records, 2 manifests");
}

async function call(method, url, body) {
  const answer = await fetch(url, {
    method,
    body: body && JSON.stringify(body),
    headers: { Authorization: `Bearer ${process.env.ADMIN_TOKEN}`, "Content-Type": "application/json" },
  });
  if (answer.status !== 200) throw new Error(`${method} ${url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function bucket(admin, rootFile) {
  const { secret, ...request } = read(0);
  const text = readFileSync(rootFile, "utf8");
  const root = text.startsWith("-----BEGIN") ? rootOf(createPublicKey(text)) : unbase64(text.trim());
  const answer = await call("GET", `${admin}/sealing-key`);
  const key = current(await verify(root, answer.manifest));
  equal("the sealing key that the API names", answer.keyId, key.id);
  const endpoint = new URL(request.endpoint);
  const header = {
    format: 1,
    workspace: request.workspaceId,
    type: "credential",
    record: randomUUID(),
    version: 1,
    binding: {
      use: "s3",
      key: request.key,
      scheme: endpoint.protocol.slice(0, -1),
      host: endpoint.hostname,
      port: Number(endpoint.port) || { https: 443, http: 80 }[endpoint.protocol.slice(0, -1)],
      scope: request.bucket,
    },
  };
  request.id = header.record;
  request.sealedSecret = await seal(key.pem, header, new TextEncoder().encode(secret));
  console.log((await call("POST", `${admin}/bucket`, request)).bucketId);
}

const [verb, ...args] = process.argv.slice(2);
await { vectors, bucket }[verb](...args);
