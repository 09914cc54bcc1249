// The package as it is installed from its tarball: its files, its types, and its size.

import { deepStrictEqual, match, ok, strictEqual } from "node:assert";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";
import { build as buildApp, createLogger } from "vite";

const here = fileURLToPath(new URL(".", import.meta.url));

/** The largest sizes that the modules may have, minified and compressed, in bytes. */
const MOST_BYTES = { roomcast: 10_200, "roomcast/react": 950, "roomcast/vue": 1_060 };

/** The size of a module that an application bundles. */
async function sizeOf(module) {
  const options = { bundle: true, minify: true, format: "esm", write: false, external: ["react", "vue"] };
  const stdin = { contents: `export * from ${JSON.stringify(module)};`, resolveDir: here };
  const { outputFiles } = await build({ stdin, ...options });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

test("the package has its modules, their types, a README and both licences", () => {
  const files = readdirSync(new URL("node_modules/roomcast/", import.meta.url));
  for (const file of ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "package.json"]) {
    ok(files.includes(file), file);
  }
  const others = files.filter((file) => !/^(chat-[a-z-]+\.(js|d\.ts)|LICENSE-.*|README\.md|package\.json)$/.test(file));
  deepStrictEqual(others, []);
});

test("the modules are as small as they are said to be", async (context) => {
  for (const [module, most] of Object.entries(MOST_BYTES)) {
    const bytes = await sizeOf(module);
    context.diagnostic(`${module}: ${bytes} bytes`);
    ok(bytes <= most, `${module}: ${bytes} bytes, more than ${most}`);
  }
});

test("the recipes copy the files that the client needs, and no others", async () => {
  const page = readFileSync(new URL("../../../docs/recipes.md", import.meta.url), "utf8");
  const [, names] = /cp node_modules\/roomcast\/chat-\{(.*?)\}\.js/.exec(page);
  const options = { bundle: true, format: "esm", write: false, metafile: true };
  const { metafile } = await build({ entryPoints: [join(here, "node_modules/roomcast/chat-client.js")], ...options });
  const needed = Object.keys(metafile.inputs).map((path) => /chat-(.*)\.js$/.exec(path)[1]);
  deepStrictEqual(names.split(","), needed.sort());
});

test("what is not used is left out", async () => {
  const options = { bundle: true, minify: true, format: "esm", write: false };
  const stdin = { contents: 'import { ChatClient } from "roomcast";', resolveDir: here };
  const { outputFiles } = await build({ stdin, ...options });
  strictEqual(outputFiles[0].text.trim(), "");
});

test("a strict application checks against the types", () => {
  const tsc = fileURLToPath(new URL("node_modules/.bin/tsc", import.meta.url));
  execFileSync(tsc, ["--project", "app"], { cwd: here, stdio: "inherit" });
});

test("the applications of the documentation check against the types, their templates as well", () => {
  // vue-tsc runs in the compiler of TypeScript 6: that of version 7 has no interface for it.
  const script = 'require("vue-tsc").run(require.resolve("typescript6/lib/tsc"))';
  execFileSync(process.execPath, ["-e", script, "tsc", "--project", "components"], { cwd: here, stdio: "inherit" });
});

test("a strict program for Node.js checks against the types, without those of a DOM", () => {
  const tsc = fileURLToPath(new URL("node_modules/.bin/tsc", import.meta.url));
  execFileSync(tsc, ["--project", "node-app"], { cwd: here, stdio: "inherit" });
});

test("a copy of the package is packed without the licences of the repository", () => {
  const copy = mkdtempSync(join(tmpdir(), "roomcast-copy-"));
  try {
    cpSync(fileURLToPath(new URL("node_modules/roomcast/", import.meta.url)), copy, { recursive: true });
    execFileSync("npm", ["pack", "--pack-destination", copy], { cwd: copy, stdio: "pipe" });
    ok(readdirSync(copy).includes("LICENSE-MIT"));
  } finally {
    rmSync(copy, { recursive: true });
  }
});

test("npm installs the tarball, and needs nothing else for it", () => {
  const folder = mkdtempSync(join(tmpdir(), "roomcast-install-"));
  const run = (command, ...args) => execFileSync(command, args, { cwd: folder, encoding: "utf8", stdio: "pipe" });
  try {
    run("npm", "pack", fileURLToPath(new URL("node_modules/roomcast/", import.meta.url)));
    const [tarball] = readdirSync(folder);
    writeFileSync(join(folder, "package.json"), '{ "private": true, "type": "module" }');
    // Without a registry: a dependency would be an error.
    run("npm", "install", "--offline", "--no-audit", "--no-fund", "--ignore-scripts", `./${tarball}`);
    deepStrictEqual(readdirSync(join(folder, "node_modules")).filter((name) => !name.startsWith(".")), ["roomcast"]);
    const program = `
      import { ChatClient } from "roomcast";
      import { TestServer } from "roomcast/testing";
      console.log(ChatClient.name, TestServer.name);`;
    strictEqual(run(process.execPath, "--input-type=module", "--eval", program), "ChatClient TestServer\n");
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("imports by address have the types of the package, by the paths of the documentation", () => {
  const { compilerOptions } = JSON.parse(readFileSync(new URL("tsconfig.address.json", import.meta.url)));
  const [[address, [types]]] = Object.entries(compilerOptions.paths);
  const page = readFileSync(new URL("../../../docs/javascript.md", import.meta.url), "utf8");
  ok(page.includes(`"paths": { "${address}": ["${types}"] }`));
  const tsc = fileURLToPath(new URL("node_modules/.bin/tsc", import.meta.url));
  execFileSync(tsc, ["--project", "tsconfig.address.json"], { cwd: here, stdio: "inherit" });
});

test("the types declare what the modules export", async () => {
  const { exports } = JSON.parse(readFileSync(new URL("node_modules/roomcast/package.json", import.meta.url)));
  for (const [path, { types }] of Object.entries(exports).filter(([, { types }]) => types)) {
    const text = readFileSync(new URL(`node_modules/roomcast/${types}`, import.meta.url), "utf8");
    const declared = [...text.matchAll(/^export (?:class|function|const) (\w+)/gm)].map(([, name]) => name);
    const module = await import(path.replace(".", "roomcast"));
    deepStrictEqual(declared.sort(), Object.keys(module).sort(), path);
  }
});

test("Vite builds the application, and warns of nothing", async () => {
  const root = fileURLToPath(new URL("app/", import.meta.url));
  const warnings = [];
  const customLogger = createLogger();
  for (const level of ["warn", "warnOnce", "error"]) customLogger[level] = (text) => warnings.push(text);
  const { output } = await buildApp({ root, customLogger, build: { write: false } });
  match(output.find(({ type }) => type === "chunk").code, /chat\.v1/);
  deepStrictEqual(warnings, []);
});

test("for server components the hooks are a client module with the same exports", async () => {
  const script = 'console.log(import.meta.resolve("roomcast/react"))';
  const options = ["--conditions=react-server", "--input-type=module", "--eval", script];
  const url = execFileSync(process.execPath, options, { cwd: here, encoding: "utf8" }).trim();
  match(readFileSync(new URL(url), "utf8"), /^"use client";\n/);
  deepStrictEqual({ ...(await import(url)) }, { ...(await import("roomcast/react")) });
});

test("require loads it where Node.js loads modules so", (context) => {
  if (!process.features.require_module) return context.skip("this Node.js does not");
  strictEqual(typeof createRequire(import.meta.url)("roomcast").ChatClient, "function");
});

test("a runtime without a TextEncoder, as of Jest with jsdom, loads and uses it", () => {
  const program = `
    delete globalThis.TextEncoder;
    const { ChatClient } = await import("roomcast");
    const { TestServer } = await import("roomcast/testing");
    const server = new TestServer();
    const chat = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket });
    await chat.connect();
    await chat.join("r");
    console.log((await chat.send("r", "é")).offset);
    chat.close();`;
  const args = ["--input-type=module", "--eval", program];
  strictEqual(execFileSync(process.execPath, args, { cwd: here, encoding: "utf8" }), "1\n");
});

test("the manifest names the version of the servers", () => {
  const { version } = JSON.parse(readFileSync(new URL("node_modules/roomcast/package.json", import.meta.url)));
  const workspace = readFileSync(new URL("../../../Cargo.toml", import.meta.url), "utf8");
  strictEqual(version, workspace.match(/^version = "(.*)"$/m)[1]);
});
