import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { inflateSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../engine/formats/format-error.js';
import { describeModel, openModel } from '../../engine/formats/open-model.js';
import { PytorchFile } from '../../engine/formats/pytorch-file.js';
import { SafetensorsFile } from '../../engine/formats/safetensors.js';
import { goldenPath } from '../kit/golden.js';
import { temporaryDirectory } from '../kit/temporary.js';

const golden = (name: string) => goldenPath(`pytorch/${name}`);
const hostile = Object.entries(JSON.parse(readFileSync(golden('hostile.json'), 'utf8')) as Record<string, string>)
  .map(([name, text]) => [name, inflateSync(Buffer.from(text, 'base64'))] as const);

describe('a model in PyTorch files', () => {
  it.each(['half', 'sharded'])('%s: every tensor is what torch wrote', async (folder) => {
    const model = await openModel(golden(folder));
    const expected = await SafetensorsFile.open(golden('expected.safetensors'));
    expect(model.names().sort()).toEqual([...expected.entries.keys()].sort());
    for (const name of model.names()) {
      expect(model.shape(name)).toEqual(expected.entries.get(name)!.shape);
      expect(await model.read(name)).toEqual(await expected.readFloats(name));
    }
    await model.close();
    await expected.close();
  });

  it('is described by its headers', async () => {
    expect(await describeModel(golden('half'))).toMatchObject({ format: 'pytorch', layers: 2, hiddenSize: 32 });
  });

  it('is left alone where there is safetensors beside it', async () => {
    const directory = temporaryDirectory();
    copyFileSync(join(golden('half'), 'config.json'), join(directory, 'config.json'));
    copyFileSync(golden('expected.safetensors'), join(directory, 'model.safetensors'));
    writeFileSync(join(directory, 'pytorch_model.bin'), 'not read');
    expect((await describeModel(directory)).format).toBe('safetensors');
  });

  it('names the index\'s files, which must be PyTorch\'s', async () => {
    const directory = temporaryDirectory();
    copyFileSync(join(golden('half'), 'config.json'), join(directory, 'config.json'));
    writeFileSync(join(directory, 'pytorch_model.bin.index.json'), JSON.stringify({ weight_map: { a: '../x.bin' } }));
    await expect(openModel(directory)).rejects.toThrow('pytorch_model.bin.index.json: weight_map: expected names of .bin files in the directory, got "../x.bin"');
  });
});

describe('tensors of torch.save', () => {
  const expected = JSON.parse(readFileSync(golden('views.json'), 'utf8')) as Record<string, { shape: number[]; values: number[] }>;
  it.each(['views.bin', 'views-big-endian.bin'])('%s: strides, offsets, shared storages and parameters', async (name) => {
    const file = await PytorchFile.open(golden(name));
    expect([...file.entries.keys()].sort()).toEqual(Object.keys(expected).sort());
    for (const [tensor, { shape, values }] of Object.entries(expected)) {
      expect({ tensor, shape: file.entries.get(tensor)!.shape, values: Array.from(await file.readFloats(tensor)) }).toEqual({ tensor, shape, values });
    }
    await file.close();
  });

  it('of other types are named when they are read', async () => {
    const file = await PytorchFile.open(golden('integers.bin'));
    await expect(file.readFloats('longs')).rejects.toThrow('integers.bin: tensor longs: expected F32, F16 or BF16, got I64');
    await expect(file.readFloats('none')).rejects.toThrow('integers.bin: tensor none: expected to exist, got none');
    await file.close();
  });

  it('of the format before 1.6 are refused with how to convert them', async () => {
    await expect(PytorchFile.open(golden('legacy.bin'))).rejects.toThrow(/^legacy\.bin: file: expected a zip archive, as torch\.save writes it since PyTorch 1\.6, got its older format; convert it with: python -c .*weights_only=True/);
  });
});

describe('a hostile file', () => {
  const directory = temporaryDirectory();
  const open = async (name: string, bytes: Uint8Array): Promise<string> => {
    const path = join(directory, `${name.replace(/\W+/g, '-')}.bin`);
    writeFileSync(path, bytes);
    const file = await PytorchFile.open(path).catch((error: unknown) => error);
    if (file instanceof FormatError) return `${file.code}: ${file.message.replace(/^[^:]*: /, '')}`;
    if (!(file instanceof PytorchFile)) throw file as Error;
    await file.close();
    return 'accepted';
  };
  const bytesOf = new Map(hostile);

  it('starts from a good one', async () => {
    const path = join(directory, 'good.bin');
    writeFileSync(path, bytesOf.get('good')!);
    const file = await PytorchFile.open(path);
    expect(Array.from(await file.readFloats('a'))).toEqual([1, 2, 3, 4]);
    await file.close();
  });

  it.each(hostile.filter(([name]) => name !== 'good'))('is refused: %s', async (name, bytes) => {
    expect(await open(name, bytes)).toMatch(/^(unsupported|truncated|bad_header|wrong_magic): (pickle|file|zip|storage \S+|byteorder|magic): expected .+, got /);
    expect(existsSync('/tmp/pwned')).toBe(false);
  });

  it.each([
    ['os.system', `unsupported: pickle: expected what plain data and tensors are made of, got "posix.system"; nothing of it was run (byte 27)`],
    ['os.system, protocol 4', /got "posix\.system"; nothing of it was run/],
    ['builtins.eval', /got "__builtin__\.eval"; nothing of it was run/],
    ['nested getattr', /got "__builtin__\.getattr"; nothing of it was run/],
    ["a known module's other name", /got "torch\.hub\.load"; nothing of it was run/],
    ['dots in a name', /got "torch\._utils\.__globals"; nothing of it was run/],
    ['a prototype\'s name', /got "__proto__\.constructor"; nothing of it was run/],
    ['INST', /got opcode INST \(make an object\)/],
    ['a huge shape of one element', 'bad_header: pickle: expected a tensor within the 4 elements of its storage 0, got [1099511627776,2] with strides [0,0] from 0 on'],
    ['a tensor past its storage', /expected a tensor within the 4 elements of its storage 0, got \[2,4\] with strides \[1,1\] from 0 on/],
    ['a storage larger than its bytes', 'bad_header: storage 0: expected 4398046511104 bytes, got 16'],
    ['a storage of another name', 'bad_header: storage ../../../: expected 16 bytes, got none'],
    ['a TorchScript program', 'unsupported: file: expected weights (torch.save of a state dict), got a TorchScript program'],
  ])('is told by name: %s', async (name, message) => {
    const got = await open(name, bytesOf.get(name)!);
    if (typeof message === 'string') expect(got).toBe(message);
    else expect(got).toMatch(message);
  });

  it('of any length up to the whole never does anything but fail', async () => {
    const good = bytesOf.get('good')!;
    for (let length = 0; length < good.length; length += 7) expect(await open('cut', good.subarray(0, length))).not.toBe('accepted');
  });

  it('with any byte changed is refused or read, never more', async () => {
    const good = bytesOf.get('good')!;
    let refused = 0;
    for (let at = 0; at < good.length; at++) {
      const bytes = Buffer.from(good);
      bytes[at] ^= 0xff;
      if ((await open('changed', bytes)) !== 'accepted') refused++;
    }
    expect(refused).toBeGreaterThan(0);
  });
});
