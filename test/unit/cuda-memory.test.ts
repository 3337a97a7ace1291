import { beforeEach, describe, expect, it } from 'vitest';
import { CachingAllocator } from '../../engine/cuda/memory.js';

const MiB = 2 ** 20;

describe('CUDA caching allocator', () => {
  let taken: Map<number, number>;
  let capacity: number;
  let mapped: number;
  const source = {
    reserve: () => 2 ** 45,
    map: (_address: number, bytes: number): boolean => {
      if (mapped + bytes > capacity) return false;
      mapped += bytes;
      return true;
    },
    unmap: (_address: number, bytes: number) => void (mapped -= bytes),
    allocate: (bytes: number): number | undefined => {
      const used = [...taken.values()].reduce((a, b) => a + b, 0);
      if (used + bytes > capacity) return undefined;
      const address = 2 ** 40 + taken.size * 2 ** 36;
      taken.set(address, bytes);
      return address;
    },
    release: (address: number) => void taken.delete(address),
    info: () => ({ free: capacity, total: capacity }),
  };
  beforeEach(() => {
    taken = new Map();
    mapped = 0;
    capacity = 1024 * MiB;
  });

  it('hands freed memory out again without asking the device', () => {
    const memory = new CachingAllocator(source);
    const first = memory.allocate(40 * MiB, 'a');
    const { address } = first;
    memory.free(first);
    expect(memory.allocate(40 * MiB, 'b').address).toBe(address);
    expect(taken.size).toBe(1);
  });

  it('never gives two blocks the same bytes', () => {
    const memory = new CachingAllocator(source);
    const blocks = new Set<{ address: number; bytes: number }>();
    let state = 1;
    const random = (limit: number) => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % limit;
    for (let i = 0; i < 3000; i++) {
      if (blocks.size > 0 && random(5) < 2) {
        const [victim] = [...blocks].slice(random(blocks.size));
        blocks.delete(victim);
        memory.free(victim);
      } else if (blocks.size < 60) blocks.add(memory.allocate(random(3) === 0 ? random(8 * MiB) : random(40_000), 'x'));
    }
    const sorted = [...blocks].sort((a, b) => a.address - b.address);
    for (let i = 1; i < sorted.length; i++) expect(sorted[i].address).toBeGreaterThanOrEqual(sorted[i - 1].address + sorted[i - 1].bytes);
    expect(memory.memory().inUse).toBe(sorted.reduce((sum, { bytes }) => sum + bytes, 0));
  });

  it('gives blocks one after the other, of which each is freed by itself', () => {
    const memory = new CachingAllocator(source);
    for (const bytes of [1000, 3 * MiB]) {
      const blocks = memory.allocateTogether([bytes, bytes, 100], 'x');
      expect(blocks.slice(1).map(({ address }, i) => address - blocks[i].address)).toEqual([0, 1].map(() => Math.ceil(bytes / 512) * 512));
      expect(memory.memory()).toMatchObject({ blocks: 3, inUse: blocks.reduce((sum, block) => sum + block.bytes, 0) });
      const { address } = blocks[1];
      memory.free(blocks[1]);
      const again = memory.allocate(bytes, 'y');
      expect(again.address).toBe(address);
      for (const block of [blocks[0], again, blocks[2]]) memory.free(block);
      expect(memory.memory().inUse).toBe(0);
    }
  });

  it('merges neighbours, so that all of a segment can be used again', () => {
    const memory = new CachingAllocator(source);
    const parts = Array.from({ length: 8 }, () => memory.allocate(8 * MiB, 'part'));
    for (const part of [...parts].sort((a, b) => (a.address % 3) - (b.address % 3))) memory.free(part);
    const reserved = memory.memory().reserved;
    memory.allocate(32 * MiB, 'whole');
    expect(memory.memory().reserved).toBe(reserved);
  });

  it('gives cached memory back before it refuses', () => {
    capacity = 100 * MiB;
    const memory = new CachingAllocator(source);
    memory.free(memory.allocate(60 * MiB, 'a'));
    expect(memory.allocate(90 * MiB, 'b').bytes).toBe(90 * MiB);
  });

  it('names what did not fit, what is used and what would help', () => {
    capacity = 64 * MiB;
    const memory = new CachingAllocator(source);
    memory.allocate(30 * MiB, 'weights');
    expect(() => memory.allocate(500 * MiB, 'a chunk of logits')).toThrow(/expected 500 MiB for a chunk of logits, got none: 30.0 MiB in use.*train\.batchSize.*train\.checkpointing/);
    expect(() => memory.allocate(500 * MiB, 'x')).toThrow(expect.objectContaining({ failure: 'outOfMemory', code: 'out_of_memory' }));
  });

  it('keeps to its limit', () => {
    const memory = new CachingAllocator(source, 50 * MiB);
    expect(() => memory.allocate(60 * MiB, 'x')).toThrow('limit 50.0 MiB');
  });

  it('lets computations use the arena one after another, each from its start', () => {
    const memory = new CachingAllocator(source);
    const addresses = (sizes: number[]) => memory.inArena(() => {
      const blocks = sizes.map((size) => memory.allocate(size * MiB, 'intermediate'));
      const places = blocks.map(({ address }) => address);
      blocks.forEach((block) => memory.free(block));
      return places;
    });
    expect(addresses([40, 10])).toEqual([2 ** 45, 2 ** 45 + 40 * MiB]);
    // The large one takes what there is and lets the arena grow behind it.
    expect(addresses([90])).toEqual([2 ** 45]);
    expect(mapped).toBe(96 * MiB);
    expect(addresses([10, 40])).toEqual([2 ** 45, 2 ** 45 + 10 * MiB]);
    expect(memory.memory()).toMatchObject({ inUse: 0, reserved: 96 * MiB, peakInUse: 90 * MiB });
    memory.releaseArena();
    expect([mapped, memory.memory().reserved]).toEqual([0, 0]);
    expect(addresses([3])).toEqual([2 ** 45]);
  });

  it('keeps what outlives a use of the arena out of it', () => {
    const memory = new CachingAllocator(source);
    const weight = memory.allocate(40 * MiB, 'weight');
    const [inside, outside, copy] = memory.inArena(() => [
      memory.allocate(40 * MiB, 'a'), memory.outsideArena(() => memory.allocate(40 * MiB, 'b')), memory.beside(weight, () => memory.allocate(40 * MiB, 'c')),
    ]);
    expect([inside.address >= 2 ** 45, outside.address >= 2 ** 45, copy.address >= 2 ** 45]).toEqual([true, false, false]);
  });

  it('measures what a computation would take, and takes nothing', () => {
    const memory = new CachingAllocator(source);
    const kept = memory.allocate(40 * MiB, 'kept');
    const before = memory.memory();
    const run = () => {
      const blocks = [30, 20, 0.1].map((size) => memory.allocate(size * MiB, 'x'));
      memory.free(blocks[0]);
      blocks.push(memory.allocate(25 * MiB, 'y'));
      blocks.slice(1).forEach((block) => memory.free(block));
    };
    const measured = memory.measure(run);
    expect(memory.memory()).toEqual(before);
    expect(memory.isMeasured(kept)).toBe(false);
    memory.inArena(run);
    expect(measured.reserved).toBe(memory.memory().reserved - before.reserved);
    expect([...measured.byPurpose]).toEqual([['x', memory.memory().peakInUse - before.inUse]]);
  });

  it('tells what the highest point is made of where blocks come together', () => {
    const memory = new CachingAllocator(source);
    const { byPurpose } = memory.measure(() => {
      const [held, ...together] = [memory.allocate(2 * MiB, 'x'), ...memory.allocateTogether([3 * MiB, MiB, 2 * MiB], 'y')];
      for (const block of [held, ...together]) memory.free(block);
    });
    expect(Object.fromEntries(byPurpose)).toEqual({ x: 2 * MiB, y: 6 * MiB });
  });

  it('refuses to free a block twice', () => {
    const memory = new CachingAllocator(source);
    const block = memory.allocate(1000, 'x');
    memory.free(block);
    expect(() => memory.free(block)).toThrow('expected a block in use');
    const together = memory.allocateTogether([1000, 1000], 'x');
    for (const each of together) memory.free(each);
    for (const each of together) expect(() => memory.free(each)).toThrow('expected a block in use');
  });

  it('counts what is in use and its peak', () => {
    const memory = new CachingAllocator(source);
    const block = memory.allocate(3 * MiB, 'x');
    memory.free(block);
    expect(memory.memory()).toMatchObject({ inUse: 0, peakInUse: 3 * MiB, blocks: 0, segments: 1 });
    memory.resetPeak();
    expect(memory.memory().peakInUse).toBe(0);
  });
});
