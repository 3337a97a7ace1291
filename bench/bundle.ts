/**
 * Packs a script with everything it needs into a folder that runs on a machine without Node or npm (x86-64 Linux):
 *   npx tsx bench/bundle.ts OUT SCRIPT.ts...     then there: OUT/node OUT/SCRIPT.mjs
 * Holds Node itself (unpack OUT/node.xz first), koffi's native module, and one bundled file a script.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { build } from 'esbuild';

const [out, ...scripts] = process.argv.slice(2);
if (!out || scripts.length === 0) throw new Error('usage: npx tsx bench/bundle.ts OUT SCRIPT.ts...');
mkdirSync(out, { recursive: true });
await build({
  entryPoints: scripts,
  outdir: out,
  outExtension: { '.js': '.mjs' },
  entryNames: '[name]',
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  // Native packages: koffi travels beside the bundle, the others are not used on a GPU machine.
  external: ['koffi', 'tokenizers', '@tensorflow/tfjs-node', '@tensorflow/tfjs-node-gpu'],
  banner: { js: "import { createRequire as bundleRequire } from 'node:module'; const require = bundleRequire(import.meta.url);" },
  logLevel: 'warning',
});
for (const name of ['koffi', '@koromix/koffi-linux-x64']) {
  const to = join(out, 'node_modules', name);
  rmSync(to, { recursive: true, force: true });
  cpSync(join('node_modules', name), to, {
    recursive: true,
    filter: (path) => !/\/(doc|vendor|musl_x64|lib)$|\.(md|txt|cc|hh|cjs\.map)$/.test(path),
  });
}
cpSync(join('bench', 'peers'), join(out, 'peers'), { recursive: true });
if (!existsSync(join(out, 'node.xz'))) {
  cpSync(process.execPath, join(out, 'node'));
  execFileSync('strip', [join(out, 'node')]);
  execFileSync('xz', ['-T2', '-6', join(out, 'node')]);
}
console.log(scripts.map((script) => join(out, `${basename(script, '.ts')}.mjs`)).join('\n'));
