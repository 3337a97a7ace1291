import { dispose } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { modelShapes } from '../../bench/random-model.js';
import type { RopeScaling } from '../../engine/formats/rope-scaling.js';
import { ropeTables } from '../../engine/model/rope-tables.js';
import { describeBackends } from '../kit/backends.js';

const run = (length: number, first = 0): number[] => Array.from({ length }, (_, i) => first + i);
/** Rows of a batch, each of runs that are bounded by themselves: every position comes up several times, next to others of another length. */
const batch = [[run(7), run(3)], [run(3), run(7)], [run(5), run(5)], [run(10)]];

describeBackends('ropeTables', () => {
  const dynamic: RopeScaling = { type: 'dynamic', factor: 2, originalContextLength: 4 };
  it.each<[string, RopeScaling | undefined]>([['no', undefined], ['linear', { type: 'linear', factor: 4, originalContextLength: 4 }], ['dynamic', dynamic]])('gives a run of a batch the angles that it gets by itself, with %s scaling', (_, ropeScaling) => {
    const config = { ...modelShapes.tiny, ropeScaling };
    const all = ropeTables(config, batch.flat(2), [batch.length, 10]), alone = batch.flat().map((positions) => ropeTables(config, positions, [1, positions.length]));
    for (const table of ['cos', 'sin'] as const) expect([...all[table].dataSync()]).toEqual(alone.flatMap((tables) => [...tables[table].dataSync()]));
    dispose([all, alone].flat().flatMap(({ cos, sin }) => [cos, sin]));
  });
});
