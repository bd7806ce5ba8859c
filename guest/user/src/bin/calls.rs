//! Measures the null call: `calls [N]`.
#![cfg_attr(feature = "program", no_std, no_main)]

use wirevm_user::time::clock;
use wirevm_user::{Args, entry, println, process};

entry!(run);

fn run(args: Args) -> u8 {
    let count = match args.end(2).and_then(|()| args.number_or::<u32>(1, "number of calls", 10_000)) {
        Ok(count) => count,
        Err(error) => {
            println!("calls: {error}; usage: calls [N]");
            return 2;
        }
    };
    let start = clock();
    for _ in 0..count {
        process::null();
    }
    let time = (clock() - start).as_nanos();
    println!("calls: {count} null calls, {time} ns, {} ns per call", time / u128::from(count.max(1)));
    0
}
