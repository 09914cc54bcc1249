// Builds the application as for production, serves it, and prints its address.

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { build, preview } from "vite";

const root = fileURLToPath(new URL("app/", import.meta.url));
const outDir = mkdtempSync(join(tmpdir(), "roomcast-app-"));
const options = { root, logLevel: "error", build: { outDir, emptyOutDir: true } };
await build(options);
const server = await preview({ ...options, preview: { port: 0, host: "localhost" } });
console.log(server.resolvedUrls.local[0]);
