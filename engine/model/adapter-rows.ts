import { concat, dispose, keep, tensor2d, type Tensor2D } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';
import type { LoraAdapter } from './adapter.js';
import type { Branches } from './llama.js';

/** Whether an adapter's rows may stand in a batch beside those of others. */
export const sharesBatches = (adapter: LoraAdapter): boolean => trainedBeside(adapter).length === 0;

/** What an adapter trains beside low-rank branches, and a whole batch would share. */
const trainedBeside = ({ options: { useDora, bias = 'none', modulesToSave = [] } }: LoraAdapter): string[] =>
  [...(useDora ? ['DoRA'] : []), ...(bias !== 'none' ? ['trained biases'] : []), ...modulesToSave];

/**
 * Adapters side by side over one base: each row of a batch goes through its own. A module's A and B stand below and beside one
 * another, and each row's low-rank coordinates are zero but for those of its own adapter. `dispose` when done.
 */
export class AdapterRows {
  private readonly adapters: readonly LoraAdapter[];
  private readonly modules = new Map<string, StackedModule | undefined>();

  /** @param of the adapter of each row, undefined for the base alone. Low-rank branches without DoRA are all that they may train. */
  constructor(private readonly of: readonly (LoraAdapter | undefined)[]) {
    this.adapters = [...new Set(of.filter((adapter) => adapter !== undefined))];
    const refused = this.adapters.flatMap((adapter, i) =>
      sharesBatches(adapter) ? [] : [`adapters[${i}]: expected low-rank branches alone, got ${trainedBeside(adapter).join(', ')}; run it by itself`]);
    if (refused.length > 0) throw new EngineError('invalidInput', 'adapter_rows', refused.join('\n'));
  }

  /** The branches of a batch of these rows, each of `positions` positions, for use within a tidy. */
  branches(rows: readonly number[], positions = 1): Branches {
    // Modules of the same ranks and scales share their factors.
    const factors = new Map<string, Float32Array>();
    return {
      branch: (path) => {
        const module = this.module(path);
        if (!module) return undefined;
        const { a, b, members } = module;
        const key = members.map(({ adapter, rank, scale }) => `${this.adapters.indexOf(adapter)} ${rank} ${scale}`).join();
        if (!factors.has(key)) factors.set(key, this.factors(members, rows, positions));
        return { a, b, scale: 1, factors: tensor2d(factors.get(key)!, [rows.length * positions, a.shape[0]]) };
      },
    };
  }

  dispose(): void {
    for (const module of this.modules.values()) if (module) dispose([module.a, module.b]);
    this.modules.clear();
  }

  /** A linear layer's A and B of all adapters that have them. */
  private module(path: string): StackedModule | undefined {
    if (this.modules.has(path)) return this.modules.get(path);
    const found = this.adapters.flatMap((adapter) => {
      const branch = adapter.branch(path);
      return branch ? [{ adapter, branch }] : [];
    });
    const beside = (letter: 'a' | 'b', axis: 0 | 1): Tensor2D => keep(concat(found.map(({ branch }) => branch[letter]), axis));
    const module = found.length === 0 ? undefined : {
      a: beside('a', 0), b: beside('b', 1), members: found.map(({ adapter, branch }) => ({ adapter, rank: branch.a.shape[0], scale: branch.scale })),
    };
    this.modules.set(path, module);
    return module;
  }

  /** [rows · positions, all ranks]: a row's own scale over the ranks of its adapter, 0 over the others. */
  private factors(members: StackedModule['members'], rows: readonly number[], positions: number): Float32Array {
    const ranks = members.reduce((sum, { rank }) => sum + rank, 0);
    const values = new Float32Array(rows.length * positions * ranks);
    rows.forEach((row, place) => {
      let first = 0;
      for (const { adapter, rank, scale } of members) {
        if (this.of[row] === adapter) {
          for (let position = place * positions; position < (place + 1) * positions; position++) values.fill(scale, position * ranks + first, position * ranks + first + rank);
        }
        first += rank;
      }
    });
    return values;
  }
}

/** What the adapters have at one linear layer. */
interface StackedModule {
  /** [all ranks, in]. */
  a: Tensor2D;
  /** [out, all ranks]. */
  b: Tensor2D;
  members: readonly { adapter: LoraAdapter; rank: number; scale: number }[];
}
