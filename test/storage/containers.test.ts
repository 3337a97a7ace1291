/** The container files, by the linters and by what the code expects of them; nothing is started. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { composeCheck, hadolint } from '../../infra/tools/container-linters.js';
import { ToolError } from '../../infra/tools/tool-error.js';
import { loadConfig } from '../../temporal.config.js';

const run = promisify(execFile);
const directory = 'infra/containers';
const tool = (path: Promise<string>): Promise<string> => path.catch((error: unknown) => {
  if (error instanceof ToolError) return `missing: ${error.message.split('\n')[0]}`;
  throw error;
});
const [hadolintPath, composePath] = await Promise.all([tool(hadolint('.temper/cache')), tool(composeCheck('.temper/cache'))]);
const title = (name: string, path: string): string => (path.startsWith('missing') ? `${name} (skipped: ${path})` : name);

interface Service {
  image: string;
  build?: { context: string; dockerfile: string };
  environment?: Record<string, string>;
  depends_on?: Record<string, unknown>;
  volumes?: { source: string; type: string }[];
}

/** The services as compose understands them, with `${VARIABLES}` as written. @throws when the file does not fit the Compose Specification */
async function services(): Promise<Record<string, Service>> {
  const { stdout } = await run(composePath, ['-no-interpolation', '-format', 'json', 'compose.yaml'], { cwd: directory });
  return (JSON.parse(stdout) as { services: Record<string, Service> }).services;
}

describe.skipIf(hadolintPath.startsWith('missing'))(title('Dockerfiles', hadolintPath), () => {
  it.each(['cpu.Dockerfile', 'gpu.Dockerfile'])('%s has nothing that hadolint minds', async (file) => {
    const { stdout } = await run(hadolintPath, ['--config', join(directory, 'hadolint.yaml'), join(directory, file)]).catch((error: { stdout: string }) => error);
    expect(stdout).toBe('');
  });
});

describe.skipIf(composePath.startsWith('missing'))(title('compose.yaml', composePath), () => {
  it('is a compose file, with every service that Temper needs', async () => {
    expect(Object.keys(await services()).sort()).toEqual([
      'engine-cpu', 'engine-gpu', 'orchestrator', 'postgres', 's3', 's3-bucket', 'temporal', 'temporal-namespace', 'temporal-schema', 'temporal-ui',
    ]);
  });

  it('waits only for services that are there', async () => {
    const all = await services();
    for (const [name, { depends_on = {} }] of Object.entries(all)) expect(Object.keys(all), name).toEqual(expect.arrayContaining(Object.keys(depends_on)));
  });

  it('takes every variable from .env, without a default, and .env.example names them all', async () => {
    const text = readFileSync(join(directory, 'compose.yaml'), 'utf8');
    const used = [...text.matchAll(/\$\{(\w+)([^}]*)\}/g)];
    expect(new Set(used.map(([, , rest]) => rest))).toEqual(new Set([':?set it in .env']));
    const offered = [...readFileSync(join(directory, '.env.example'), 'utf8').matchAll(/^(\w+)=/gm)].map(([, name]) => name);
    expect(offered.sort()).toEqual([...new Set(used.map(([, name]) => name)), 'COMPOSE_PROFILES'].sort());
  });

  it('gives workers an environment that the configuration accepts', async () => {
    const all = await services();
    for (const name of ['orchestrator', 'engine-cpu', 'engine-gpu']) {
      expect(loadConfig(all[name].environment), name).toMatchObject({ store: 's3://temper/store', temporal: { address: 'temporal:7233', namespace: 'temper' } });
    }
  });

  it('builds the workers from Dockerfiles that are here and pins every other image', async () => {
    for (const [name, { image, build }] of Object.entries(await services())) {
      if (build) expect(readFileSync(join(build.context, build.dockerfile), 'utf8'), name).toMatch(/^ENTRYPOINT /m);
      else expect(image, name).toMatch(/:v?\d+\.\d+/);
    }
  });

  it('mounts only files that are here', async () => {
    const mounts = Object.values(await services()).flatMap(({ volumes = [] }) => volumes).filter(({ type }) => type === 'bind');
    expect(mounts.length).toBe(4);
    for (const { source } of mounts) expect(readFileSync(source, 'utf8')).not.toBe('');
  });
});

it('Dockerfiles copy only what .dockerignore lets through', () => {
  const allowed = [...readFileSync('.dockerignore', 'utf8').matchAll(/^!(.+)$/gm)].map(([, path]) => path);
  for (const file of ['cpu.Dockerfile', 'gpu.Dockerfile']) {
    const copied = [...readFileSync(join(directory, file), 'utf8').matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(([, paths]) => paths.split(' '));
    expect(copied.length).toBeGreaterThan(0);
    for (const path of copied) expect(path === '.' || allowed.some((entry) => path === entry || path.startsWith(`${entry}/`)), `${file}: ${path}`).toBe(true);
  }
});
