import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { dirname, join } from 'node:path';
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { Checkpoints, removeCheckpoints, StaleAttemptError } from '../../activities/checkpoints.js';
import { openStore } from '../../store/open-store.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { silentLog } from '../kit/trainer-job.js';

const directory = temporaryDirectory();
const key = 'f'.repeat(64);
let count = 0;

function emptyStore() {
  count += 1;
  return openStore(pathToFileURL(join(directory, `store-${count}`)).href);
}

const attempt = (store: ReturnType<typeof emptyStore>, log = silentLog, owner = 'run') => Checkpoints.open(store, { key, owner, keep: 2, log });

/** A checkpoint directory as the engine writes it: files, one of them in a folder. */
async function written(step: number, by = 'a'): Promise<string> {
  const target = join(directory, `written-${by}-${step}`);
  for (const name of ['state.json', 'optimizer/moments.safetensors']) {
    await mkdir(dirname(join(target, name)), { recursive: true });
    await writeFile(join(target, name), `${name} of step ${step} by ${by}`);
  }
  return target;
}

async function restored(checkpoints: Checkpoints) {
  count += 1;
  const found = await checkpoints.restore(join(directory, `restored-${count}`));
  return found && { ...found, state: await readFile(join(found.directory, 'state.json'), 'utf8') };
}

describe('Checkpoints', () => {
  it('has nothing to restore at first', async () => expect(await restored(await attempt(emptyStore()))).toBeUndefined());

  it('gives a later attempt the newest one, with every file', async () => {
    const store = emptyStore();
    const first = await attempt(store);
    for (const step of [50, 100]) await first.save(step, await written(step));
    const found = await restored(await attempt(store));
    expect(found).toMatchObject({ step: 100, state: 'state.json of step 100 by a' });
    expect(await readFile(join(found!.directory, 'optimizer/moments.safetensors'), 'utf8')).toBe('optimizer/moments.safetensors of step 100 by a');
    expect(found!.directory).toMatch(/checkpoint-00000100$/);
  });

  it('keeps the last ones only', async () => {
    const store = emptyStore();
    const checkpoints = await attempt(store);
    for (const step of [9, 10, 100]) await checkpoints.save(step, await written(step));
    const folders = new Set((await store.list(`checkpoints/${key}/run/0`)).map((name) => name.split('/')[3]));
    expect([...folders]).toEqual(['00000010-000001', '00000100-000001']);
  });

  it('lets a stale attempt write nothing that counts', async () => {
    const store = emptyStore();
    const [stale, newest] = [await attempt(store), await attempt(store)];
    await newest.save(50, await written(50, 'newest'));
    await expect(stale.save(60, await written(60, 'stale'))).rejects.toThrow(StaleAttemptError);
    await expect(stale.save(50, await written(50, 'stale'))).rejects.toThrow('got fencing token 1 where the newest is 2');
    expect(await restored(await attempt(store))).toMatchObject({ step: 50, state: 'state.json of step 50 by newest' });
  });

  it('refuses the manifest of an attempt that became stale while it uploaded', async () => {
    const store = emptyStore();
    const slow = await attempt(new Proxy(store, {
      get: (target, name) => {
        if (name !== 'putFileAt') return (target[name as keyof typeof target] as () => unknown).bind?.(target) ?? target[name as keyof typeof target];
        return async (...args: Parameters<typeof target.putFileAt>) => {
          await attempt(store);
          return target.putFileAt(...args);
        };
      },
    }));
    await expect(slow.save(50, await written(50))).rejects.toThrow(StaleAttemptError);
    expect(await restored(await attempt(store))).toBeUndefined();
  });

  it('gives racing attempts different tokens', async () => {
    const store = emptyStore();
    const attempts = await Promise.all(Array.from({ length: 8 }, () => attempt(store)));
    expect(attempts.map(({ fence }) => fence).sort()).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it('lets two runs of the same training work side by side, and either go on from the other\'s', async () => {
    const store = emptyStore();
    const [first, second] = [await attempt(store), await attempt(store, silentLog, 'other-run')];
    await second.save(60, await written(60, 'second'));
    await first.save(50, await written(50, 'first'));
    expect(await restored(await attempt(store))).toMatchObject({ step: 60, state: 'state.json of step 60 by second' });
  });

  it.each([
    ['changed', (path: string) => writeFile(path, 'something else')],
    ['cut short', async (path: string) => writeFile(path, (await readFile(path)).subarray(0, 5))],
  ])('passes over a checkpoint with a file that was %s, and says so', async (_, damage) => {
    const store = emptyStore();
    const checkpoints = await attempt(store);
    for (const step of [50, 100]) await checkpoints.save(step, await written(step));
    await damage(fileURLToPath(`${store.root}/checkpoints/${key}/run/00000100-000001/state.json`));
    const lines: string[] = [];
    const found = await restored(await attempt(store, pino({}, { write: (line: string) => lines.push(line) })));
    expect(found).toMatchObject({ step: 50 });
    expect(lines.join()).toContain('00000100-000001/manifest.json');
  });

  it('passes over one whose manifest was never written, has a missing file, or is no manifest', async () => {
    const store = emptyStore();
    const checkpoints = await attempt(store);
    await checkpoints.save(50, await written(50));
    await store.create(`checkpoints/${key}/run/00000060-000001/state.json`, Buffer.from('half'));
    await store.create(`checkpoints/${key}/run/00000070-000001/manifest.json`, Buffer.from('{"step":70}'));
    await checkpoints.save(80, await written(80));
    await store.remove(`checkpoints/${key}/run/00000080-000001/state.json`);
    const second = await attempt(store);
    expect(await restored(second)).toBeUndefined(); // 70 and 80 were the two to keep
    await second.save(50, await written(50, 'second'));
    expect(await restored(await attempt(store))).toMatchObject({ step: 50, state: 'state.json of step 50 by second' });
  });

  it('leaves nothing but the fencing token once the training has its result', async () => {
    const store = emptyStore();
    const checkpoints = await attempt(store);
    await checkpoints.save(50, await written(50));
    await removeCheckpoints(store, key);
    expect(await store.list('')).toEqual([`checkpoints/${key}/run/fence.json`]);
    await expect((await attempt(store)).fence).toBe(2);
  });
});
