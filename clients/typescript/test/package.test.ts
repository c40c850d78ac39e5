import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));

/** What somebody writes who has only the package. */
const program = `
import { Bridge, BridgeError, Code, subscribe } from "spotbridge";
import { EventView, Start } from "spotbridge/v1";
import { PnrDataSchema, type PnrData } from "spotbridge/payload";

const total = (pnr: PnrData): number => pnr.totalFare?.amount ?? 0;
console.log(PnrDataSchema.typeName, EventView.TYPED, Code.OutOfRange, typeof BridgeError, typeof total);
const messages = subscribe(new Bridge("127.0.0.1:1"), { request: { start: Start.EARLIEST }, signal: AbortSignal.abort() });
for await (const { content } of messages) if (content.case === "event" && content.value.payload.case === "pnrV3") total(content.value.payload.value);
`;

test("the packed library works in another project, with its types", () => {
  const dir = mkdtempSync(join(tmpdir(), "spotbridge-package-"));
  after(() => rmSync(dir, { recursive: true }));
  const run = (command: string, ...args: string[]) =>
    execFileSync(command, args, { cwd: dir, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

  const [packed] = JSON.parse(
    execFileSync("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", dir], { cwd: root, encoding: "utf8" }),
  ) as { filename: string; files: { path: string }[] }[];
  assert.ok(packed);
  assert.deepEqual(
    packed.files.map(({ path }) => path).filter((path) => !/^(package\.json|README\.md|dist\/.+\.(js|d\.ts))$/.test(path)),
    [],
  );

  writeFileSync(join(dir, "package.json"), '{"private": true, "type": "module"}');
  writeFileSync(join(dir, "program.ts"), program);
  run(
    "npm",
    "install",
    "--no-package-lock",
    "--prefer-offline",
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
    `./${packed.filename}`,
  );
  // The compiler is that of this folder, and so are the types of Node.js. The library's own types are checked, too.
  run(
    join(root, "node_modules/.bin/tsc"),
    "--strict",
    "--target",
    "es2022",
    "--module",
    "nodenext",
    "--types",
    "node",
    "--typeRoots",
    join(root, "node_modules/@types"),
    "program.ts",
  );
  assert.equal(run(process.execPath, "program.js"), "spotnana.payload.v1.PnrData 2 11 function function\n");
});
