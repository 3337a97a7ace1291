import { beforeEach, describe, expect, it } from 'vitest';
import { CachingAllocator } from '../../engine/cuda/memory.js';

const MiB = 2 ** 20;

describe('CUDA caching allocator', () => {
  let taken: Map<number, number>;
  let capacity: number;
  const source = {
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

  it('keeps a private pool to itself until it is released', () => {
    const memory = new CachingAllocator(source);
    const { result, release } = memory.withPrivatePool('graph', () => {
      const block = memory.allocate(40 * MiB, 'intermediate');
      const { address } = block;
      memory.free(block);
      return address;
    });
    const outside = memory.allocate(40 * MiB, 'outside');
    expect(outside.address).not.toBe(result);
    release();
    expect(memory.allocate(40 * MiB, 'later').address).toBe(result);
  });

  it('refuses to free a block twice', () => {
    const memory = new CachingAllocator(source);
    const block = memory.allocate(1000, 'x');
    memory.free(block);
    expect(() => memory.free(block)).toThrow('expected a block in use');
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
