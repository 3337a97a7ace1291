import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPublishStage } from '../../activities/publish.js';
import { checkHub } from '../../activities/publish-to-hub.js';
import { hubSettings, type HubSettings } from '../../activities/sources/hub/hub-settings.js';
import { runStage } from '../../activities/stage.js';
import { validate } from '../../activities/validate.js';
import type { NamedArtifact } from '../../contracts/artifact.js';
import { hubSchema } from '../../contracts/fine-tune-config.js';
import type { PublishOutput } from '../../contracts/stages.js';
import { startHub, type Hub } from '../kit/hub-server.js';
import { stageKit } from '../kit/stage.js';
import { temporaryDirectory } from '../kit/temporary.js';

const directory = temporaryDirectory();
const token = 'hf_test';
let hub: Hub;
let kit: Awaited<ReturnType<typeof stageKit>>;
let settings: HubSettings;
const as = (change: Partial<HubSettings> = {}): HubSettings => ({ ...settings, ...change });

beforeAll(async () => {
  mkdirSync(join(directory, 'old'));
  writeFileSync(join(directory, 'old/notes.txt'), 'kept');
  writeFileSync(join(directory, 'old/model-00001-of-00002.safetensors'), 'older weights');
  hub = await startHub({
    models: { 'tester/old': join(directory, 'old'), 'other/model': join(directory, 'old') }, token,
    account: { name: 'tester', orgs: [{ name: 'team', roleInOrg: 'write' }, { name: 'readers', roleInOrg: 'read' }] },
  });
  settings = hubSettings({ HF_ENDPOINT: hub.endpoint, HF_TOKEN: token, HF_HOME: join(directory, 'hf') });
  kit = await stageKit();
});
afterAll(async () => {
  await hub.close();
  await kit.remove();
});

const artifact = async (name: string, content: string): Promise<NamedArtifact> => ({ name, ...(await kit.context.store.putBytes(Buffer.from(content), 'application/octet-stream')) });
const files = (text: string) => Promise.all([
  artifact('adapter/adapter_config.json', `{"text":"${text}"}`), artifact('adapter/adapter_model.safetensors', `weights ${text}`), artifact('adapter/README.md', '# Card'),
  artifact('merged/config.json', '{}'), artifact('merged/model.safetensors', `merged ${text}`), artifact('gguf/model-f16.gguf', `gguf ${text}`), artifact('gguf/adapter.gguf', `lora ${text}`),
  artifact('report.html', '<html>'),
]);
const publish = async (target: object, input: NamedArtifact[], hubAs = settings): Promise<PublishOutput> =>
  (await runStage(createPublishStage(undefined, hubAs), { input: { hub: hubSchema.parse(target), name: 'run', files: input } }, { ...kit.context, workRoot: kit.directory })).output;
const texts = (name: string, revision?: string) => Object.fromEntries([...hub.files(name, revision)].filter(([path]) => path !== '.gitattributes').map(([path, bytes]) => [path, bytes.toString()]));

describe('publishing to the hub', () => {
  it('makes the repository, private, and commits the adapter with its card', async () => {
    const { hub: made } = await publish({ repo: 'tester/tuned' }, await files('v1'));
    expect(made).toEqual({ url: `${hub.endpoint}/tester/tuned/tree/main`, commit: hub.commit('tester/tuned') });
    expect(hub.visibility('tester/tuned')).toBe('private');
    expect(texts('tester/tuned')).toEqual({ 'README.md': '# Card', 'adapter.gguf': 'lora v1', 'adapter_config.json': '{"text":"v1"}', 'adapter_model.safetensors': 'weights v1' });
  });

  it('makes no second commit of the same, and one with what differs alone of another', async () => {
    const before = hub.commits('tester/tuned');
    const { hub: again } = await publish({ repo: 'tester/tuned' }, await files('v1'));
    expect(again!.commit).toBe(hub.commit('tester/tuned'));
    expect(hub.commits('tester/tuned')).toBe(before);
    hub.requests.splice(0);
    await publish({ repo: 'tester/tuned' }, await files('v2'));
    expect(hub.commits('tester/tuned')).toBe(before + 1);
    expect(texts('tester/tuned')['adapter_model.safetensors']).toBe('weights v2');
    expect(hub.requests.filter((request) => request.startsWith('PUT /upload/'))).toHaveLength(2); // the two large files
  });

  it('puts a merged model with its GGUF files onto a branch of its own, keeps what else is there and removes weights of another cut', async () => {
    await publish({ repo: 'tester/old', revision: 'tuned', what: 'merged' }, await files('m'));
    expect(texts('tester/old', 'tuned')).toEqual({ 'config.json': '{}', 'model-f16.gguf': 'gguf m', 'model.safetensors': 'merged m', 'notes.txt': 'kept' });
    expect(texts('tester/old')).toHaveProperty('notes.txt', 'kept');
    expect(texts('tester/old')).not.toHaveProperty('config.json');
  });

  it('tries again when someone else commits between comparing and committing', async () => {
    const race: HubSettings = settings;
    const [first, second] = await Promise.all([publish({ repo: 'team/shared' }, await files('a'), race), publish({ repo: 'team/shared' }, await files('b'), race)]);
    expect([first.hub!.commit, second.hub!.commit]).toContain(hub.commit('team/shared'));
    expect(['weights a', 'weights b']).toContain(texts('team/shared')['adapter_model.safetensors']);
  });

  it('is refused for good when the repository is not the token\'s', async () => {
    await expect(publish({ repo: 'other/model' }, await files('x'))).rejects.toMatchObject({
      name: 'InvalidInputError', problems: [{ path: 'publish.hub.repo', message: expect.stringContaining('the token needs the right to write') }],
    });
  });
});

describe('checking the hub before a run', () => {
  it.each([
    ['without a token', 'tester/x', { token: undefined }, 'a push needs a token that may write: set HF_TOKEN'],
    ['with a wrong one', 'tester/x', { token: 'hf_wrong' }, 'refuses the token: '],
    ['offline', 'tester/x', { offline: true }, 'a push needs the network'],
    ['for a namespace of someone else', 'other/model', {}, 'expected a repository of tester, team, readers, whose token this is, got other/model'],
    ['for an organisation in which one may only read', 'readers/x', {}, 'tester may only read in readers'],
  ] as const)('refuses %s', async (_, repo, change, message) => {
    await expect(checkHub(hubSchema.parse({ repo }), as(change))).rejects.toMatchObject({ problems: [{ path: 'publish.hub.repo', message: expect.stringContaining(message) }] });
  });

  it('refuses a token that may only read', async () => {
    const strict = await startHub({ token, account: { name: 'tester', role: 'read' } });
    const checking = checkHub(hubSchema.parse({ repo: 'tester/x' }), as({ endpoint: strict.endpoint }));
    await expect(checking.finally(() => strict.close())).rejects.toThrow('the token may only read: set HF_TOKEN to one that may write');
  });

  it('looks into what a fine-grained token may do', async () => {
    const grants = [{ entity: { type: 'user', name: 'tester' }, permissions: ['repo.content.read'] }, { entity: { type: 'model', name: 'tester/mine' }, permissions: ['repo.write'] }];
    const fine = await startHub({ token, account: { name: 'tester', role: 'fineGrained', grants } });
    const check = (repo: string) => checkHub(hubSchema.parse({ repo }), as({ endpoint: fine.endpoint }));
    await check('tester/mine');
    await expect(check('tester/other').finally(() => fine.close())).rejects.toThrow('the token has no right to write to tester/other: give it that right');
  });

  it('lets the owner pass, and a member of an organisation', async () => {
    await checkHub(hubSchema.parse({ repo: 'tester/new' }), settings);
    await checkHub(hubSchema.parse({ repo: 'team/new' }), settings);
  });

  it('is among the problems of a run\'s input, beside the others', async () => {
    const input = {
      name: 'test', model: { uri: 'file:none' }, dataset: { uri: 'file:none.csv' }, format: { instruction: '{a}', response: '{b}' }, publish: { hub: { repo: 'other/model' } },
    };
    const error: unknown = await validate(input, { dataRoots: [directory], cacheDirectory: join(directory, 'cache'), hub: settings }).catch((caught: unknown) => caught);
    const { problems } = error as { problems: { path: string }[] };
    expect(problems.map(({ path }) => path)).toEqual(expect.arrayContaining(['model.uri', 'dataset.uri', 'publish.hub.repo']));
  });
});
