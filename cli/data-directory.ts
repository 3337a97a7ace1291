/** Everything the command line keeps is under this folder of the current directory. */
export const dataDirectory = '.temper';
