// Packs chat-server/web as npm does, and installs the tarball here, where the tests import it.

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const installed = join(here, "node_modules", "roomcast");
const folder = mkdtempSync(join(tmpdir(), "roomcast-pack-"));
try {
  const pack = ["pack", "--json", "--pack-destination", folder, join(here, "../../web")];
  const [{ filename }] = Object.values(JSON.parse(execFileSync("npm", pack, { encoding: "utf8" })));
  rmSync(installed, { recursive: true, force: true });
  mkdirSync(installed);
  execFileSync("tar", ["-xzf", join(folder, filename), "-C", installed, "--strip-components=1"]);
} finally {
  rmSync(folder, { recursive: true });
}
