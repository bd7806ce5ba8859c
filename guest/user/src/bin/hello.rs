//! Greets: `hello [NAME]`.
#![cfg_attr(feature = "program", no_std, no_main)]

use wirevm_user::{Args, entry, println};

entry!(run);

fn run(args: Args) -> u8 {
    if let Err(error) = args.end(2) {
        println!("hello: {error}; usage: hello [NAME]");
        return 2;
    }
    println!("hello, {}", args.get(1).unwrap_or("world"));
    0
}
