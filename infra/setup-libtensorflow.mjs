/**
 * Gives tfjs-node its native part: libtensorflow from TensorFlow's own Python wheel, and the binding compiled against it.
 *
 *   node infra/setup-libtensorflow.mjs [--gpu]
 *
 * What was fetched and built stays in the cache (`TEMPER_CACHE`, else `.temper/cache`), so that a fresh node_modules only
 * needs links. Where it cannot be done, one line says why, the exit code is 0 all the same, and Temper computes on wasm.
 * Plain Node: it runs before anything else of this repository.
 */
import { execFile } from 'node:child_process';
import { createWriteStream, existsSync, readFileSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const require = createRequire(import.meta.url);
const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Wheels for CPython 3.11 on x86-64 Linux; no Python code of theirs is used, so the Python at hand may be another one. */
const variants = {
  cpu: {
    package: '@tensorflow/tfjs-node',
    wheel: 'tensorflow-cpu',
    sha256: 'cf756bbe2d256e942ab5d0ad2c858fb40017581494febdb4387c149b1afde780',
    megabytes: 259,
  },
  gpu: {
    package: '@tensorflow/tfjs-node-gpu',
    wheel: 'tensorflow',
    sha256: '481499fd0f824583de8945be61d5e827898cdaa4f5ea1bc2cc28ca2ccff8229e',
    megabytes: 621,
  },
};
const tensorflowVersion = '2.20.0';

/** File names inside the wheel, and the names under which the linker looks for them. */
const libraries = [
  { file: 'libtensorflow_cc.so.2', link: 'libtensorflow.so' },
  { file: 'libtensorflow_framework.so.2', link: 'libtensorflow_framework.so' },
];
/** The C interface's headers and what they include. */
const headers = /^tensorflow\/include\/(tensorflow\/c|tensorflow\/core\/platform|tensorflow\/tsl\/platform|tsl\/c|tsl\/platform|xla\/tsl\/c|xla\/tsl\/platform)\/.*\.h$/;

/** A reason, for people, why libtensorflow cannot be set up on this machine. */
class SetupProblem extends Error {}

/**
 * Makes libtensorflow usable; returns at once when it is.
 * @param {{ gpu?: boolean, log?: (line: string) => void }} [options] `gpu`: the build with CUDA kernels. @default false
 * @returns {Promise<{ ready: true } | { ready: false, reason: string }>}
 */
export async function setUpLibtensorflow({ gpu = false, log = (line) => console.error(line) } = {}) {
  const variant = gpu ? variants.gpu : variants.cpu;
  const target = dirname(require.resolve(`${variant.package}/package.json`));
  if (isReady(target)) return { ready: true };
  try {
    if (process.platform === 'linux' && process.arch === 'x64') await setUpFromWheel(variant, target, log);
    else await setUpFromVendor(variant, log);
    await checkThatItLoads(variant, target);
    log(`libtensorflow: ready (${variant.package})`);
    return { ready: true };
  } catch (error) {
    const reason = error instanceof SetupProblem ? error.message : lastLine(error);
    log(`libtensorflow: not set up, so wasm will be used, which trains about twenty times slower: ${reason}`);
    return { ready: false, reason };
  }
}

/** @param {string} target folder of the tfjs-node package */
const bindingOf = (target) => join(target, 'lib/napi-v8/tfjs_binding.node');

/** @param {string} target */
const isReady = (target) => existsSync(bindingOf(target)) && (process.platform !== 'linux' || existsSync(join(target, 'deps/lib', libraries[0].link)));

/**
 * @param {typeof variants.cpu} variant
 * @param {string} target
 * @param {(line: string) => void} log
 */
async function setUpFromWheel(variant, target, log) {
  const cache = join(resolve(root, process.env.TEMPER_CACHE ?? '.temper/cache'), `lib${variant.wheel}-${tensorflowVersion}`);
  if (!existsSync(join(cache, 'lib'))) await fetchLibrary(variant, cache, log);
  await link(cache, join(target, 'deps'));
  const { version } = JSON.parse(readFileSync(join(target, 'package.json'), 'utf8'));
  const binding = join(cache, `tfjs_binding-${version}.node`);
  if (!existsSync(binding)) await compile(target, cache, binding, log);
  await mkdir(dirname(bindingOf(target)), { recursive: true });
  await rm(bindingOf(target), { force: true }); // a package manager may have hard-linked it
  await copyFile(binding, bindingOf(target));
}

/**
 * Downloads the wheel and unpacks the libraries and headers into `cache`, whole or not at all.
 * @param {typeof variants.cpu} variant
 * @param {string} cache
 * @param {(line: string) => void} log
 */
async function fetchLibrary(variant, cache, log) {
  const pip = await findPip();
  log(`libtensorflow: fetching ${variant.wheel} ${tensorflowVersion} (${variant.megabytes} MB, once)`);
  await mkdir(dirname(cache), { recursive: true });
  const work = await mkdtemp(`${cache}.`);
  try {
    const requirements = join(work, 'requirements.txt');
    await writeFile(requirements, `${variant.wheel}==${tensorflowVersion} --hash=sha256:${variant.sha256}\n`);
    const platform = ['--python-version', '311', '--implementation', 'cp', '--platform', 'manylinux_2_17_x86_64', '--platform', 'manylinux2014_x86_64'];
    const download = ['download', '--quiet', '--disable-pip-version-check', '--no-cache-dir', '--no-deps', '--only-binary=:all:', '--require-hashes'];
    await run(pip[0], [...pip.slice(1), ...download, ...platform, '--dest', work, '--requirement', requirements]).catch((error) => {
      throw new SetupProblem(`pip could not download ${variant.wheel}==${tensorflowVersion}: ${lastLine(error)}`);
    });
    const wheel = (await readdir(work)).find((name) => name.endsWith('.whl'));
    if (!wheel) throw new SetupProblem(`pip downloaded no wheel of ${variant.wheel}==${tensorflowVersion}`);
    await unpack(join(work, wheel), join(work, 'unpacked'));
    for (const { file, link } of libraries) await symlink(file, join(work, 'unpacked/lib', link));
    // Another setup may have come first; its files are the same.
    await rename(join(work, 'unpacked'), cache).catch((error) => {
      if (!existsSync(join(cache, 'lib'))) throw error;
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** @returns {Promise<string[]>} the command and its first arguments */
async function findPip() {
  for (const pip of [['python3', '-m', 'pip'], ['python', '-m', 'pip'], ['pip3'], ['pip']]) {
    if (await succeeds(pip[0], [...pip.slice(1), '--version'])) return pip;
  }
  const python = await succeeds('python3', ['--version']);
  throw new SetupProblem(python ? 'expected pip, found Python without it (install python3-pip)' : 'expected Python 3 with pip, found neither');
}

/**
 * @param {string} wheel
 * @param {string} directory
 */
async function unpack(wheel, directory) {
  const { default: yauzl } = await import('yauzl');
  const zip = await promisify(yauzl.open)(wheel, { lazyEntries: true });
  const openEntry = promisify(zip.openReadStream.bind(zip));
  await new Promise((done, fail) => {
    zip.on('end', done);
    zip.on('error', fail);
    zip.on('entry', (entry) => {
      const path = pathInCache(entry.fileName);
      const written = path === undefined ? Promise.resolve() : write(entry, join(directory, path));
      written.then(() => zip.readEntry(), fail);
    });
    zip.readEntry();
  });
  async function write(entry, path) {
    await mkdir(dirname(path), { recursive: true });
    await pipeline(await openEntry(entry), createWriteStream(path));
  }
}

/**
 * @param {string} name entry of the wheel
 * @returns {string | undefined} undefined when the entry is not needed
 */
function pathInCache(name) {
  const library = libraries.find(({ file }) => name === `tensorflow/${file}`);
  if (library) return `lib/${library.file}`;
  return headers.test(name) ? name.slice('tensorflow/'.length) : undefined;
}

/**
 * Makes `path` a link to `cache`, in place of what the package's own installer may have left there.
 * @param {string} cache
 * @param {string} path
 */
async function link(cache, path) {
  await rm(path, { recursive: true, force: true });
  await symlink(cache, path, 'dir');
}

/**
 * Compiles the package's two source files; they use only the stable Node-API, so the result fits every Node version.
 * @param {string} target
 * @param {string} cache
 * @param {string} binding
 * @param {(line: string) => void} log
 */
async function compile(target, cache, binding, log) {
  const compiler = await findCompiler();
  log('libtensorflow: compiling the binding');
  const partial = `${binding}.${process.pid}`;
  const sources = ['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => join(target, 'binding', name));
  const includes = [require('node-api-headers').include_dir, join(cache, 'include'), target].map((path) => `-I${path}`);
  const link = [`-L${join(cache, 'lib')}`, '-ltensorflow', '-ltensorflow_framework', '-Wl,-rpath,$ORIGIN/../../deps/lib'];
  await run(compiler, ['-shared', '-fPIC', '-O2', '-std=c++17', '-w', '-DNAPI_VERSION=8', ...includes, ...sources, '-o', partial, ...link]).catch((error) => {
    const first = String(error.stderr ?? error).split('\n').find((line) => line.includes('error')) ?? lastLine(error);
    throw new SetupProblem(`the binding did not compile: ${first}`);
  });
  await rename(partial, binding);
}

/** @returns {Promise<string>} */
async function findCompiler() {
  for (const compiler of [process.env.CXX, 'c++', 'g++', 'clang++']) {
    if (compiler && (await succeeds(compiler, ['--version']))) return compiler;
  }
  throw new SetupProblem('expected a C++ compiler, found none (install g++)');
}

/**
 * The package's own installer, which downloads a prebuilt libtensorflow for macOS, Windows and other processors.
 * @param {typeof variants.cpu} variant
 * @param {(line: string) => void} log
 */
async function setUpFromVendor(variant, log) {
  log(`libtensorflow: installing ${variant.package}'s prebuilt library`);
  await run('npm', ['rebuild', variant.package, '--ignore-scripts=false'], { cwd: root, shell: process.platform === 'win32' }).catch((error) => {
    throw new SetupProblem(`npm rebuild ${variant.package}: ${lastLine(error)}`);
  });
}

/**
 * Loads the binding in a process of its own; one that does not load is taken away again, so that nothing trips over it.
 * @param {typeof variants.cpu} variant
 * @param {string} target
 */
async function checkThatItLoads(variant, target) {
  const script = `const u=require('util');u.isNullOrUndefined??=(v)=>v==null;const tf=require(${JSON.stringify(variant.package)});if(tf.add(1,2).dataSync()[0]!==3)throw new Error('1 + 2: expected 3')`;
  await run(process.execPath, ['-e', script], { cwd: root, env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: '2' } }).catch(async (error) => {
    await rm(bindingOf(target), { force: true });
    const reason = String(error.stderr ?? error).split('\n').find((line) => /error/i.test(line)) ?? lastLine(error);
    throw new SetupProblem(`the library does not load here: ${reason.trim()}`);
  });
}

/**
 * @param {string} command
 * @param {string[]} args
 */
const succeeds = (command, args) => run(command, args).then(() => true, () => false);

/** @param {unknown} error */
const lastLine = (error) => String(/** @type {any} */ (error)?.stderr || error).trim().split('\n').at(-1) ?? '';

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const unknown = process.argv.slice(2).filter((argument) => argument !== '--gpu');
  if (unknown.length > 0) {
    console.error(`setup: ${unknown[0]}: unknown option; expected --gpu or none`);
    process.exitCode = 2;
  } else {
    await setUpLibtensorflow({ gpu: process.argv.includes('--gpu') });
  }
}
