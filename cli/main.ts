import { CommanderError } from 'commander';
import { systemConsole } from './console.js';
import { describeError } from './describe-error.js';
import { exitCodes } from './exit-codes.js';
import { interruptSignal } from './interrupt.js';
import { createProgram } from './program.js';

const signal = interruptSignal();
process.exitCode = await main();
// Nothing is left to wait for, whatever sockets are still open.
process.exit();

async function main(): Promise<number> {
  try {
    await createProgram({ console: systemConsole, signal }).parseAsync();
    return signal.aborted ? exitCodes.interrupted : exitCodes.ok;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.badInput;
    if (signal.aborted) return exitCodes.interrupted;
    const { exitCode, message, problems } = describeError(error);
    if (process.argv.includes('--json')) process.stdout.write(`${JSON.stringify({ error: message, ...(problems && { problems }) })}\n`);
    else process.stderr.write(`${message}\n`);
    return exitCode;
  }
}
