module example.com/keyward/check

go 1.23

require example.com/keyward/client v0.0.0

replace example.com/keyward/client => ./client
