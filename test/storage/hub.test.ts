import { createHash } from 'node:crypto';
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, readlinkSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fetchDataset, locateDataset } from '../../activities/sources/datasets.js';
import { hubSettings, type HubSettings } from '../../activities/sources/hub/hub-settings.js';
import { locateModel, ModelCache } from '../../activities/sources/models.js';
import { validate } from '../../activities/validate.js';
import { toStageFailure } from '../../activities/stage-failure.js';
import { freePort } from '../../infra/dev/free-port.js';
import { startHub, type Hub } from '../kit/hub-server.js';
import { temporaryDirectory } from '../kit/temporary.js';

const root = realpathSync(temporaryDirectory());
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
const csv = (rows: number, from = 0) => `product,description\n${Array.from({ length: rows }, (_, i) => `p${from + i},d${from + i}`).join('\n')}\n`;

function directory(name: string, files: Record<string, string | Buffer>): string {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(root, name, path, '..'), { recursive: true });
    writeFileSync(join(root, name, path), content);
  }
  return join(root, name);
}

const gguf = readFileSync('test/golden/formats-model.gguf');
const llama = directory('llama', { 'README.md': '# A model', 'original/consolidated.00.pth': 'x', 'pytorch_model.bin': 'not read', 'nested/extra.json': '{}' });
for (const name of ['config.json', 'generation_config.json', 'model.safetensors']) copyFileSync(`test/golden/model/base/${name}`, join(llama, name));
const weights = readFileSync(join(llama, 'model.safetensors'));

const models = {
  'tiny/llama': llama,
  'tiny/gguf': directory('gguf', { 'model.gguf': gguf, 'README.md': 'x' }),
  'tiny/quants': directory('quants', { 'a-Q4_K_M.gguf': gguf, 'a-Q8_0.gguf': gguf }),
  'tiny/words': directory('words', { 'README.md': 'no model' }),
  'tiny/gated': llama,
  'tiny/private': llama,
};
const datasets = {
  'tiny/products': directory('products', { 'data/train-00000-of-00002.csv': csv(20), 'data/train-00001-of-00002.csv': csv(20, 20), 'data/test-00000-of-00001.csv': csv(4, 40), 'README.md': '# Products' }),
  'tiny/configs': directory('configs', {
    'README.md': '---\nconfigs:\n- config_name: small\n  data_files: s/*.csv\n- config_name: large\n  default: true\n  data_files:\n  - split: train\n    path: [l/a.csv, l/b.csv]\n  - split: dev\n    path: l/dev.csv\n---\n# x',
    's/one.csv': csv(30), 'l/a.csv': csv(10), 'l/b.csv': csv(10, 10), 'l/dev.csv': csv(5, 50),
  }),
  'tiny/many': directory('many', Object.fromEntries(Array.from({ length: 1001 }, (_, i) => [`part-${String(i).padStart(4, '0')}.csv`, csv(1, i)]))),
  'tiny/arrow': directory('arrow', { 'data.arrow': 'x' }),
};

let hub: Hub;
beforeAll(async () => {
  hub = await startHub({ models, datasets, revisions: { 'tiny/gguf': { v1: directory('gguf-v1', { 'model.gguf': gguf }) } }, gated: ['tiny/gated'], private: ['tiny/private'], token: 'hf_secret' });
});
afterAll(() => hub.close());

function machine(change: Partial<HubSettings> = {}) {
  const home = temporaryDirectory();
  const hubCache = join(home, 'hub');
  return { hubCache, settings: { dataRoots: [root], cacheDirectory: join(home, 'cache'), hub: { endpoint: hub.endpoint, cacheDirectory: hubCache, offline: false, ...change } } };
}
const fetchModel = async (uri: string, settings: ReturnType<typeof machine>['settings'], progress?: (phase: string, done: number, total: number) => void) => (await locateModel(uri, settings)).fetch(progress);
const refusal = (work: Promise<unknown>): Promise<string> => work.then(() => 'accepted', (error: Error) => `${error.name}: ${error.message}`);
/** Runs work and gives the hub's requests that it made. */
async function requestsOf(work: () => Promise<unknown>): Promise<string[]> {
  const before = hub.requests.length;
  await work();
  return hub.requests.slice(before);
}
/** Where no hub listens. */
const nobody = async () => `http://127.0.0.1:${await freePort(0)}`;
const downloads = (requests: string[]) => requests.filter((request) => /^GET .*\/resolve\//.test(request)).map((request) => request.replace(/.*resolve\/[0-9a-f]+\//, ''));

describe('a model on the hub', () => {
  it('is fetched with the files that are needed, and pinned to its commit', async () => {
    const { settings } = machine();
    let files: Awaited<ReturnType<Awaited<ReturnType<typeof fetchModel>>['pin']>> = [];
    const requests = await requestsOf(async () => (files = await (await fetchModel('hf://tiny/llama', settings)).pin()));
    expect(downloads(requests).sort()).toEqual(['config.json', 'generation_config.json', 'model.safetensors']);
    const commit = hub.commit('tiny/llama');
    expect(files.map(({ name }) => name)).toEqual(['config.json', 'generation_config.json', 'model.safetensors']);
    expect(files[2]).toEqual({ name: 'model.safetensors', uri: `hf://models/tiny/llama@${commit}/model.safetensors`, sha256: sha256(weights), bytes: weights.length, mediaType: 'application/octet-stream' });
  });

  it('lies in the cache as huggingface_hub lays it out', async () => {
    const { hubCache, settings } = machine();
    await fetchModel('hf://tiny/llama', settings);
    const commit = hub.commit('tiny/llama');
    const folder = join(hubCache, 'models--tiny--llama');
    expect(readFileSync(join(folder, 'refs/main'), 'utf8')).toBe(commit);
    expect(readlinkSync(join(folder, 'snapshots', commit, 'model.safetensors'))).toBe(`../../blobs/${sha256(weights)}`);
    const config = readFileSync(join(llama, 'config.json'));
    expect(readlinkSync(join(folder, 'snapshots', commit, 'config.json'))).toBe(`../../blobs/${createHash('sha1').update(`blob ${config.length}\0`).update(config).digest('hex')}`);
  });

  it('is not fetched again, and another machine gets the same by its pinned files', async () => {
    const { settings } = machine();
    const files = await (await fetchModel('hf://tiny/llama', settings)).pin();
    expect(downloads(await requestsOf(() => fetchModel('hf://tiny/llama', settings)))).toEqual([]);
    expect((await locateModel('hf://tiny/llama', settings)).remote).toBe(false);
    const opened = await new ModelCache(machine().settings).open({ files });
    expect(readFileSync(join(opened, 'model.safetensors'))).toEqual(weights);
    expect(await requestsOf(() => new ModelCache(settings).open({ files }))).toEqual([]);
  });

  it('passes validation, its revision recorded', async () => {
    const { settings } = machine();
    const input = { name: 'run', model: { uri: 'hf://tiny/gguf@v1' }, dataset: { uri: 'hf://tiny/products' }, format: { instruction: 'Describe {product}', response: '{description}', maxLength: 64 } };
    const output = await validate(input, settings);
    expect(output.model.uri).toBe('hf://tiny/gguf@v1');
    expect(output.model.files.map(({ uri }) => uri)).toEqual([`hf://models/tiny/gguf@${hub.commit('tiny/gguf', 'v1')}/model.gguf`]);
    expect([output.dataset].flat().map(({ uri }) => uri)).toEqual([0, 1].map((i) => `hf://datasets/tiny/products@${hub.commit('tiny/products')}/data/train-0000${i}-of-00002.csv`));
  });

  it('may be one of several .gguf files', async () => {
    const { settings } = machine();
    const model = await fetchModel('hf://tiny/quants/a-Q8_0.gguf', settings);
    expect(model.path).toMatch(/a-Q8_0\.gguf$/);
    expect((await model.pin()).map(({ name }) => name)).toEqual(['a-Q8_0.gguf']);
    expect(await refusal(fetchModel('hf://tiny/quants', settings))).toBe(
      'SourceError: expected one GGUF model in tiny/quants, got 2: a-Q4_K_M.gguf, a-Q8_0.gguf; name one, as hf://tiny/quants/a-Q4_K_M.gguf',
    );
  });

  it('tells how far it is', async () => {
    const seen: [string, number, number][] = [];
    await fetchModel('hf://tiny/llama', machine().settings, (...report) => seen.push(report));
    const total = ['config.json', 'generation_config.json', 'model.safetensors'].reduce((sum, name) => sum + readFileSync(join(llama, name)).length, 0);
    expect(seen.at(-1)).toEqual(['fetching tiny/llama', total, total]);
    expect(seen.every(([, done], i) => i === 0 || done >= seen[i - 1][1])).toBe(true);
  });
});

describe('a download', () => {
  it('brings several files at once', async () => {
    let arrived = 0;
    let open!: () => void;
    const together = new Promise<void>((resolve) => (open = resolve));
    const wait = () => {
      if (++arrived === 4) open();
      return together;
    };
    hub.faults.push(...[0, 1, 2, 3].map((i) => ({ path: `part-000${i}.csv`, wait })));
    const { settings } = machine();
    expect(await (await locateDataset({ uri: 'hf://tiny/many/part-000[0-5].csv' }, settings)).fetch()).toHaveLength(6);
  });

  it('goes on where the connection broke', async () => {
    hub.faults.push({ path: 'model.safetensors', after: 100_000 }, { path: 'model.safetensors', after: 50_000 });
    const { hubCache, settings } = machine();
    const requests = await requestsOf(() => fetchModel('hf://tiny/llama', settings));
    expect(requests.filter((request) => request.includes('/lfs/')).map((request) => / bytes=(\d+)-/.exec(request)?.[1])).toEqual([undefined, '100000', '150000']);
    expect(readFileSync(join(hubCache, 'models--tiny--llama/blobs', sha256(weights)))).toEqual(weights);
  });

  it('goes on from what an earlier process left', async () => {
    const { hubCache, settings } = machine();
    const blob = join(hubCache, 'models--tiny--llama/blobs', sha256(weights));
    mkdirSync(join(blob, '..'), { recursive: true });
    writeFileSync(`${blob}.incomplete`, weights.subarray(0, 120_000));
    const requests = await requestsOf(() => fetchModel('hf://tiny/llama', settings));
    expect(requests).toContainEqual(expect.stringMatching(/^GET \/lfs\/\w+ bytes=120000-$/));
    expect(readFileSync(blob)).toEqual(weights);
    expect(existsSync(`${blob}.incomplete`)).toBe(false);
  });

  it('is begun anew when what was left is of something else, or what comes is damaged', async () => {
    const { hubCache, settings } = machine();
    const blob = join(hubCache, 'models--tiny--llama/blobs', sha256(weights));
    mkdirSync(join(blob, '..'), { recursive: true });
    writeFileSync(`${blob}.incomplete`, Buffer.alloc(120_000, 7));
    await fetchModel('hf://tiny/llama', settings);
    expect(readFileSync(blob)).toEqual(weights);
    hub.faults.push({ path: 'config.json', damage: true });
    const other = machine();
    await fetchModel('hf://tiny/llama', other.settings);
    expect(readFileSync(join(other.hubCache, 'models--tiny--llama/snapshots', hub.commit('tiny/llama'), 'config.json'))).toEqual(readFileSync(join(llama, 'config.json')));
  });

  it('that is damaged again fails, to be tried later', async () => {
    hub.faults.push({ path: 'config.json', damage: true }, { path: 'config.json', damage: true });
    expect(await refusal(fetchModel('hf://tiny/llama', machine().settings))).toMatch(/^HubUnreachableError: tiny\/llama\/config\.json: expected bytes with the checksum [0-9a-f]{40}, got [0-9a-f]{40}, twice$/);
    hub.faults.length = 0;
  });

  it('outlives an error of the server', async () => {
    hub.faults.push({ path: 'model.safetensors', status: 503 });
    await fetchModel('hf://tiny/llama', machine().settings);
    expect(hub.faults).toEqual([]);
  });

  it('ends when the run does, and what has arrived stays', async () => {
    const { hubCache, settings } = machine();
    const stop = (_: string, done: number) => {
      if (done > 60_000) throw new Error('cancelled');
    };
    expect(await refusal(fetchModel('hf://tiny/llama', settings, stop))).toBe('Error: cancelled');
    expect(readFileSync(join(hubCache, 'models--tiny--llama/blobs', `${sha256(weights)}.incomplete`)).length).toBeGreaterThan(0);
    await fetchModel('hf://tiny/llama', settings);
    expect(readFileSync(join(hubCache, 'models--tiny--llama/blobs', sha256(weights)))).toEqual(weights);
  });

  it('does not take bytes of the cache that are not what the hub has', async () => {
    const { hubCache, settings } = machine();
    await fetchModel('hf://tiny/llama', settings);
    const blob = join(hubCache, 'models--tiny--llama/blobs', sha256(weights));
    writeFileSync(blob, Buffer.alloc(weights.length));
    const model = await fetchModel('hf://tiny/llama', settings);
    expect(await refusal(model.pin())).toBe(`SourceError: ${blob}: expected sha256 ${sha256(weights)}, got ${sha256(Buffer.alloc(weights.length))}; the file in the cache is damaged: remove it, and it is fetched again`);
  });
});

describe('offline', () => {
  it('uses what has been fetched, by branch and by commit', async () => {
    const { settings } = machine();
    const online = await (await fetchModel('hf://tiny/llama', settings)).pin();
    const offline = { ...settings, hub: { ...settings.hub, offline: true } };
    const requests = await requestsOf(async () => {
      expect(await (await fetchModel('hf://tiny/llama', offline)).pin()).toEqual(online);
      expect(await (await fetchModel(`hf://tiny/llama@${hub.commit('tiny/llama')}`, offline)).pin()).toEqual(online);
    });
    expect(requests).toEqual([]);
  });

  it('uses it as well when the hub does not answer', async () => {
    const { settings } = machine();
    const online = await (await fetchModel('hf://tiny/llama', settings)).pin();
    const away = { ...settings, hub: { ...settings.hub, endpoint: await nobody() } };
    expect(await (await fetchModel('hf://tiny/llama', away)).pin()).toEqual(online);
  });

  it('waits for the hub when it has a part of it, which is no mistake of the input', async () => {
    const { settings, hubCache } = machine();
    await fetchModel('hf://tiny/llama', settings);
    rmSync(join(hubCache, 'models--tiny--llama/blobs', sha256(weights)));
    const away = { ...settings, hub: { ...settings.hub, endpoint: await nobody() } };
    expect(await refusal(fetchModel('hf://tiny/llama', away))).toMatch(/^HubUnreachableError: /);
    rmSync(join(hubCache, 'models--tiny--llama/snapshots', hub.commit('tiny/llama'), 'model.safetensors'));
    expect(await refusal(fetchModel('hf://tiny/llama', away))).toMatch(/^HubUnreachableError: /);
    const offline = { ...settings, hub: { ...settings.hub, offline: true } };
    expect(await refusal(fetchModel('hf://tiny/llama', offline))).toBe('SourceError: expected config.json with weights (.safetensors or pytorch_model.bin), or a .gguf file, in tiny/llama, got config.json, generation_config.json');
  });

  it('says what is missing', async () => {
    const { hubCache, settings } = machine({ offline: true });
    expect(await refusal(fetchModel('hf://tiny/llama', settings))).toBe(`SourceError: expected tiny/llama among what has been fetched before (${hubCache}), as HF_HUB_OFFLINE is set; got nothing of this revision`);
  });
});

describe('what cannot be had is refused with what to do about it', () => {
  it.each<[string, string, Partial<HubSettings>, string | RegExp]>([
    ['a repository that is not there', 'hf://tiny/none', {}, /^SourceError: expected a model tiny\/none at http:\S+, got none; check its name, and if it is private, set HF_TOKEN or run `hf auth login`$/],
    ['a private repository without a token', 'hf://tiny/private', {}, /^SourceError: expected a model tiny\/private at .* if it is private, set HF_TOKEN/],
    ['a repository that the token does not see', 'hf://tiny/none', { token: 'hf_secret' }, /got none that this token may see; check its name, and that the token may read it$/],
    ['a wrong token', 'hf://tiny/llama', { token: 'hf_wrong' }, /^SourceError: http:\S+ refuses the token: Invalid credentials in Authorization header; set HF_TOKEN .* with a valid one \(http:\S+\/settings\/tokens\)$/],
    ['a gated repository', 'hf://tiny/gated', {}, /^SourceError: the model tiny\/gated is gated: ask for access at http:\S+\/tiny\/gated, then set HF_TOKEN or run `hf auth login`$/],
    ['a wrong revision', 'hf://tiny/llama@v9', {}, /^SourceError: expected a branch, tag or commit of tiny\/llama, got 'v9'; http:\S+\/tiny\/llama\/tree\/main lists them$/],
    ['a file that is not there', 'hf://tiny/quants/b.gguf', {}, 'SourceError: expected config.json with weights (.safetensors or pytorch_model.bin), or a .gguf file, in tiny/quants/b.gguf, got a-Q4_K_M.gguf, a-Q8_0.gguf'],
    ['a repository without a model', 'hf://tiny/words', {}, 'SourceError: expected config.json with weights (.safetensors or pytorch_model.bin), or a .gguf file, in tiny/words, got README.md'],
    ['a dataset', 'hf://datasets/tiny/products', {}, "SourceError: expected hf://OWNER/NAME[@REVISION][/PATH] of a model, got one of datasets, 'hf://datasets/tiny/products'"],
  ])('%s', async (_, uri, change, message) => expect(await refusal(fetchModel(uri, machine(change).settings))).toEqual(typeof message === 'string' ? message : expect.stringMatching(message)));

  it('a gated repository is told with all else that is wrong, before anything is fetched', async () => {
    const { settings } = machine();
    const input = { name: 'run', model: { uri: 'hf://tiny/gated' }, dataset: { uri: 'hf://tiny/products', hub: { split: 'dev' } }, format: { response: '{description}' }, lora: { rank: 0 } };
    const requests = await requestsOf(async () => {
      expect((await refusal(validate(input, settings))).split('\n').map((line) => line.replace(/^InvalidInputError: /, '').split(':')[0]).sort()).toEqual(['dataset.uri', 'format.instruction', 'lora.rank', 'model.uri']);
    });
    expect(requests.filter((request) => request.startsWith('GET') && request.includes('/resolve/') && !request.endsWith('/README.md'))).toEqual([]);
  });

  it('a gated repository is open to a token with access', async () => {
    const { settings } = machine({ token: 'hf_secret' });
    expect(await (await fetchModel('hf://tiny/gated', settings)).pin()).toHaveLength(3);
  });

  it('no network is a failure to be tried again, not the input\'s', async () => {
    const endpoint = await nobody();
    const error = await fetchModel('hf://tiny/llama', machine({ endpoint }).settings).catch((caught: unknown) => caught);
    expect((error as Error).message).toBe(`${endpoint}: expected an answer, got ECONNREFUSED; is the network up, and is HF_ENDPOINT right? HF_HUB_OFFLINE=1 uses what has been fetched before`);
    expect(toStageFailure(error, 'validate', 1)).toBe(error);
  });
});

describe('a dataset on the hub', () => {
  const names = async (dataset: Parameters<typeof locateDataset>[0], settings = machine().settings) => (await (await locateDataset(dataset, settings)).fetch()).map(({ ref }) => ref.uri.replace(/.*@[0-9a-f]+\//, ''));

  it.each<[string, Parameters<typeof locateDataset>[0], string[]]>([
    ['its train split', { uri: 'hf://tiny/products' }, ['data/train-00000-of-00002.csv', 'data/train-00001-of-00002.csv']],
    ['with the kind in its URI', { uri: 'hf://datasets/tiny/products@main' }, ['data/train-00000-of-00002.csv', 'data/train-00001-of-00002.csv']],
    ['another split', { uri: 'hf://tiny/products', hub: { split: 'test' } }, ['data/test-00000-of-00001.csv']],
    ['a file', { uri: 'hf://tiny/products/data/test-00000-of-00001.csv' }, ['data/test-00000-of-00001.csv']],
    ['a pattern', { uri: 'hf://tiny/products/data/*-00000-*.csv' }, ['data/test-00000-of-00001.csv', 'data/train-00000-of-00002.csv']],
    ['its default configuration', { uri: 'hf://tiny/configs' }, ['l/a.csv', 'l/b.csv']],
    ['another configuration', { uri: 'hf://tiny/configs', hub: { config: 'small' } }, ['s/one.csv']],
    ['a split of a configuration', { uri: 'hf://tiny/configs', hub: { config: 'large', split: 'dev' } }, ['l/dev.csv']],
    ['the last of more files than one answer lists', { uri: 'hf://tiny/many/*-1000.csv' }, ['part-1000.csv']],
    ['two of them', { uri: ['hf://tiny/configs/s/one.csv', 'hf://tiny/products/data/test-*'] }, ['s/one.csv', 'data/test-00000-of-00001.csv']],
  ])('%s', async (_, dataset, expected) => expect(await names(dataset)).toEqual(expected));

  it.each<[string, Parameters<typeof locateDataset>[0], string]>([
    ['a split', { uri: 'hf://tiny/products', hub: { split: 'dev' } }, "dataset.uri: expected dataset.hub.split to be one of test, train, got 'dev'"],
    ['a configuration', { uri: 'hf://tiny/configs', hub: { config: 'huge' } }, "dataset.uri: expected dataset.hub.config to be one of small, large, got 'huge'"],
    ['a configuration where there is none', { uri: 'hf://tiny/products', hub: { config: 'small' } }, "dataset.uri: expected no configuration, as the repository's card names none, got 'small'"],
    ['a pattern that nothing matches', { uri: 'hf://tiny/arrow/*.csv' }, 'dataset.uri: expected files like *.csv in tiny/arrow, got data.arrow'],
    ['what no reader reads', { uri: 'hf://tiny/arrow' }, "dataset.uri: expected files of data (.csv, .json, .jsonl, .ndjson, .parquet), got data.arrow; the hub's own conversion may be at @refs/convert/parquet"],
    ['a split beside a path', { uri: 'hf://tiny/products/data/*.csv', hub: { split: 'test' } }, `dataset.uri: expected no dataset.hub beside the path 'data/*.csv', which names the files, got {"split":"test"}`],
    ['a split of a local file', { uri: 'file:none.csv', hub: { split: 'test' } }, `dataset.uri: expected a file or directory at ${join(root, 'none.csv')}, got none\ndataset.hub: expected none beside files that are not on the hub, got {"split":"test"}`],
    ['each of several', { uri: ['hf://tiny/none', 'file:none.csv'] }, `dataset.uri[1]: expected a file or directory at ${join(root, 'none.csv')}, got none`],
  ])('names %s that is not there', async (_, dataset, message) => expect(await refusal(locateDataset(dataset, machine().settings))).toContain(message));

  it('is fetched by its pin elsewhere, and a changed file is noticed', async () => {
    const { settings, hubCache } = machine();
    const [{ ref, path }] = await (await locateDataset({ uri: 'hf://tiny/products' }, settings)).fetch();
    expect(readFileSync(await fetchDataset(ref, machine().settings), 'utf8')).toBe(csv(20));
    expect(path.startsWith(realpathSync(hubCache))).toBe(true);
    rmSync(path);
    writeFileSync(path, csv(21));
    expect(await refusal(fetchDataset(ref, settings))).toMatch(/^InvalidInputError: dataset\.uri: .*expected sha256 .*; the file has changed since the run began$/);
  });
});

describe('settings', () => {
  const home = temporaryDirectory();
  it.each<[string, NodeJS.ProcessEnv, Partial<HubSettings>]>([
    ['defaults', { HOME: home }, { endpoint: 'https://huggingface.co', cacheDirectory: join(home, '.cache/huggingface/hub'), token: undefined, offline: false }],
    ['XDG_CACHE_HOME', { HOME: home, XDG_CACHE_HOME: '/x' }, { cacheDirectory: '/x/huggingface/hub' }],
    ['HF_HOME', { HF_HOME: '~/hf', HOME: home }, { cacheDirectory: join(home, 'hf/hub') }],
    ['HF_HUB_CACHE', { HF_HOME: '/a', HF_HUB_CACHE: '/b' }, { cacheDirectory: '/b' }],
    ['HF_ENDPOINT', { HF_ENDPOINT: 'https://hub.example/' }, { endpoint: 'https://hub.example' }],
    ['HF_TOKEN', { HF_TOKEN: ' hf_x\n' }, { token: 'hf_x' }],
    ['HF_HUB_OFFLINE', { HF_HUB_OFFLINE: '1' }, { offline: true }],
  ])('%s', (_, env, expected) => expect(hubSettings(env)).toMatchObject(expected));

  it('the token file that `hf auth login` writes', () => {
    writeFileSync(join(home, 'token'), 'hf_file\n');
    expect(hubSettings({ HF_HOME: home }).token).toBe('hf_file');
    expect(hubSettings({ HF_HOME: home, HF_TOKEN: 'hf_env' }).token).toBe('hf_env');
    expect(hubSettings({ HF_HOME: home, HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' }).token).toBeUndefined();
    cpSync(join(home, 'token'), join(home, 'other'));
    expect(hubSettings({ HF_TOKEN_PATH: join(home, 'other') }).token).toBe('hf_file');
  });
});
