# smnist.awk - two drawn figures, a ring and a stroke, as records of `ssm score`: awk -f smnist.awk > smnist.records
# SPDX-License-Identifier: MIT
function size(x) { return x < 0 ? -x : x }
function shade(far) { return far < 1 ? 1 : far < 2 ? 2 - far : 0 } # of a line two pixels wide
BEGIN {
    print "# made by: awk -f smnist.awk"
    for (figure = 0; figure < 2; ++figure) {
        print "!"
        for (i = 0; i < 784; ++i) {
            y = int(i / 28) - 13.5; x = i % 28 - 13.5
            if (figure == 0) v = shade(size(sqrt(x * x / 0.6 + y * y) - 8))
            else v = size(y) < 9 ? shade(size(x + 0.2 * y)) : 0
            printf "%s%.2g\n", i == 783 ? "" : "+ ", v
        }
    }
}
